"""Features of a frozen model: what its classifier sees."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from vrwkv.device import to_device
from vrwkv.errors import InputError
from vrwkv.evaluate.mode import evaluation_mode, progress


def extract_features(
    model: Any, batches: Iterable[Mapping[str, Any]], device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Pooled features before the last linear layer, and labels.

    Args:
        model: on `device` already, with timm's `forward_features` and `forward_head`.
        batches: each with "image" (B, 3, H, W), preprocessed, or a list of B images for a model that packs them, and
            "label" (B,).
        device: where images are moved to.

    Returns:
        (N, D) float32 and (N,) int64, on the CPU, in the order of the batches.

    Raises:
        InputError: no images, or features that are not finite.
    """
    features, labels = [], []
    with evaluation_mode(model), torch.no_grad():
        for batch in progress(batches, "features"):
            pooled = _pooled(model, to_device(batch["image"], device))
            features.append(pooled.float().flatten(1).cpu())
            labels.append(batch["label"].cpu().long())
    if not features:
        raise InputError("no images to take features of: the set is empty")
    stacked = torch.cat(features)
    if not stacked.isfinite().all():
        raise InputError(f"the model's features are not finite for {int((~stacked.isfinite()).any(1).sum())} images")
    return stacked, torch.cat(labels)


def _pooled(model: Any, images: Tensor | list[Tensor]) -> Tensor:
    if isinstance(images, list):
        return model.forward_packed(images, pre_logits=True)
    return model.forward_head(model.forward_features(images), pre_logits=True)
