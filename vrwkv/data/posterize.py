"""Posterising to no bits at all: timm's policies ask for it at full strength, and Pillow 13 refuses it."""

from collections.abc import Iterator
from typing import Any

from PIL import Image
from timm.data.auto_augment import AugmentOp, posterize


def allow_zero_bits(transform: Any) -> None:
    """Let the policies inside a transform of timm posterise to 0 bits, which older Pillow turned into a black image."""
    for op in _operations(transform):
        if op.aug_fn is posterize:
            op.aug_fn = _posterize


def _operations(transform: Any) -> Iterator[AugmentOp]:
    """Every operation of the policies (RandAugment, AutoAugment, AugMix) inside a composed transform."""
    if isinstance(transform, AugmentOp):
        yield transform
    elif isinstance(transform, list | tuple):
        for part in transform:
            yield from _operations(part)
    else:
        for name in ("transforms", "ops", "policy"):
            yield from _operations(getattr(transform, name, ()))


def _posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    return posterize(image, bits_to_keep, **options) if bits_to_keep > 0 else Image.new(image.mode, image.size)
