"""Weights for the backbone of a segmentor or detector: from a classifier, a backbone, or a whole published model."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.models.containers import read_state_dict
from vrwkv.models.published import checkpoint_filter_fn, from_published_names, load_strictly
from vrwkv.models.vision_rwkv import VisionRWKV

ADAPTER_PARTS = ("spm.", "interactions.", "level_embed", "up.", "norm1.", "norm2.", "norm3.", "norm4.")


def load_backbone(model: VisionRWKV, checkpoint: str | Path, prefix: str | None = None) -> None:
    """Fill a backbone from a file of published or of our names; positions are resized to the model's.

    Of a whole segmentor or detector, only the backbone is read. What the file has for parts that the model lacks (a
    classifier, a final norm) is left out. The adapter around a bare backbone, and layer scales that the file does not
    have, keep their starting values, as in the released configurations.

    Args:
        model: a `VisionRWKV` or `VisionRWKVAdapter` without classifier.
        checkpoint: a file, or the address (http, https) of one.
        prefix: take only the tensors whose names begin so; by default those below "backbone." if there are any.

    Raises:
        InputError: unreadable, nothing below the prefix, or weights of another model; what does not fit is listed.
    """
    stored = read_state_dict(_local_file(str(checkpoint)))
    tensors = from_published_names(model, _below(stored, prefix, str(checkpoint)))
    own = model.state_dict()
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(absent_parts(model))}
    if not any(name.startswith(ADAPTER_PARTS) for name in tensors):
        tensors |= {name: tensor for name, tensor in own.items() if name.startswith(ADAPTER_PARTS)}
    if not any(_is_layer_scale(name) for name in tensors):
        tensors |= {name: tensor for name, tensor in own.items() if _is_layer_scale(name)}
    load_strictly(model, checkpoint_filter_fn(tensors, model), str(checkpoint))


def absent_parts(model: VisionRWKV) -> tuple[str, ...]:
    """Beginnings of the names, in a classifier's file, of a head and a final norm that the model does not have."""
    # The final norm keeps its published name, ln1, where the model has none to translate it to.
    own, optional = model.state_dict(), ("head.", "norm.", "ln1.")
    return tuple(part for part in optional if not any(name.startswith(part) for name in own))


def _is_layer_scale(name: str) -> bool:
    return name.endswith((".ls1.gamma", ".ls2.gamma"))


def _below(stored: Mapping[str, Tensor], prefix: str | None, where: str) -> dict[str, Tensor]:
    if prefix is None:
        prefix = "backbone." if any(name.startswith("backbone.") for name in stored) else ""
    found = {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}
    if not found:
        raise InputError(f"{where} has no weights whose names begin with {prefix!r}, such as {next(iter(stored))!r}")
    return found


def _local_file(checkpoint: str) -> Path:
    """The file, fetched into torch's cache if `checkpoint` is an address."""
    if urlparse(checkpoint).scheme not in ("http", "https"):
        return Path(checkpoint)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / Path(urlparse(checkpoint).path).name
    if not file.exists():
        torch.hub.download_url_to_file(checkpoint, str(file))
    return file


def frozen_parts(model: VisionRWKV, frozen_stages: int) -> list[nn.Module]:
    """The patch embedding and the first `frozen_stages` blocks; nothing below 0."""
    return [] if frozen_stages < 0 else [model.patch_embed, model.norm_pre, *model.blocks[:frozen_stages]]
