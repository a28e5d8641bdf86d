"""Images and texts as unit vectors: the one way every evaluation reads a model.

Features are normalised in float32, whatever the precision the towers run in, and come back as
ordinary CPU tensors (not inference tensors), so that a probe may be trained on them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.evaluate.mode import evaluation_mode, progress

Tokenizer = Callable[[list[str]], Tensor]
"""Maps N strings to token ids (N, context_length), int64."""


class ImageTextModel(Protocol):
    """The surface of an open_clip model that evaluation uses. `logit_scale` is the logarithm of the scale."""

    @property
    def logit_scale(self) -> Any:
        """Tensor, scalar."""

    def encode_image(self, image: Tensor, /, normalize: bool = False) -> Tensor:
        """Images (B, 3, H, W) to features (B, D)."""

    def encode_text(self, text: Tensor, /, normalize: bool = False) -> Tensor:
        """Token ids (B, context_length) to features (B, D)."""

    def eval(self) -> Any:
        """Switch to evaluation mode."""

    def modules(self) -> Iterator[nn.Module]:
        """Every module of the model."""


def unit_features(encode: Callable[[Tensor], Tensor], inputs: Tensor, device: torch.device | str) -> Tensor:
    """Encode one batch and scale each feature vector to length 1: (B, D) float32 on the device, without gradient."""
    with torch.inference_mode():
        return F.normalize(encode(inputs.to(device, non_blocking=True)).float(), dim=-1)


def embed_images(
    model: ImageTextModel, batches: Iterable[Mapping[str, Tensor]], device: torch.device | str = "cpu"
) -> Tensor:
    """Unit image features (N, D), float32 on the CPU, in the order of the batches.

    Args:
        model: on `device` already.
        batches: each with "image" (B, 3, H, W), preprocessed as the model expects.
        device: where the images are moved to.

    Raises:
        InputError: no images.
    """
    with evaluation_mode(model):
        features = [
            unit_features(model.encode_image, batch["image"], device).cpu() for batch in progress(batches, "images")
        ]
    if not features:
        raise InputError("no images to embed: the evaluation set is empty")
    return torch.cat(features)


def embed_texts(
    model: ImageTextModel,
    tokenizer: Tokenizer,
    captions: Sequence[str],
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Unit text features (M, D), float32 on the CPU, one row a caption; tokenised batch by batch.

    Raises:
        InputError: no captions, a string in place of a list of strings, or a batch size below 1.
    """
    if isinstance(captions, str):
        raise InputError(f"captions must be a list of strings, got the string {captions!r}")
    if not captions:
        raise InputError("no captions to embed: the evaluation set is empty")
    check_batch_size(batch_size)
    starts = range(0, len(captions), batch_size)
    with evaluation_mode(model):
        features = [
            unit_features(model.encode_text, tokenizer(list(captions[start : start + batch_size])), device).cpu()
            for start in progress(starts, "captions")
        ]
    return torch.cat(features)


def check_batch_size(batch_size: int) -> None:
    """Raise InputError for a batch size below 1."""
    if batch_size < 1:
        raise InputError(f"batch size {batch_size} is too small; it must be at least 1")
