"""How training images of a classifier are varied, and how all images become tensors: timm's pipelines."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from vrwkv.data.native_resolution import CropWithinSequence, FitSequence
from vrwkv.data.posterize import allow_zero_bits
from vrwkv.data.randomness import seeded_generators
from vrwkv.errors import InputError

Preprocess = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class ImageFormat:
    """What a model expects of its images."""

    size: int
    """Pixels on each side."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    """Share of the resized image that evaluation crops from its middle."""
    max_tokens: int | None = None
    """Images keep their shape and are at most so many patches large; None: all are squares of `size`."""
    patch_size: tuple[int, int] = (16, 16)
    """Height and width of a patch in pixels; matters with `max_tokens` only."""


@dataclass
class AugmentationConfig:
    """How training images are varied; Mixup and CutMix stand in the section loss. The defaults suit photographs."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a random crop keeps: smallest, largest."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a random crop: smallest, largest."""
    horizontal_flip: float = 0.5
    """Probability of mirroring the image; wrong for data with text or digits in it."""
    vertical_flip: float = 0.0
    """Probability of turning the image upside down."""
    auto_augment: str | None = None
    """timm's name of a policy, such as rand-m9-mstd0.5-inc1 (RandAugment), original (AutoAugment), augmix-m3-w3 or
    3a (three-augment). null: none."""
    color_jitter: float = 0.0
    """Strength of random changes of brightness, contrast and saturation; goes with no auto_augment but 3a."""
    random_erasing: float = 0.0
    """Probability of covering a random rectangle."""
    random_erasing_mode: Literal["const", "rand", "pixel"] = "pixel"
    """Fill of the rectangle: const (the mean), rand (one random colour), pixel (a random colour for each pixel)."""

    def __post_init__(self) -> None:
        for name, largest in (("scale", 1.0), ("ratio", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= largest:
                limit = "" if largest == math.inf else f", at most {largest:g}"
                raise InputError(
                    f"augmentation.{name} must be two positive numbers in ascending order{limit}, got {[low, high]}"
                )
        for name in ("horizontal_flip", "vertical_flip", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"augmentation.{name} is a probability between 0 and 1, got {getattr(self, name)}")
        if not (math.isfinite(self.color_jitter) and self.color_jitter >= 0):
            raise InputError(f"augmentation.color_jitter must not be negative, got {self.color_jitter}")
        if self.color_jitter and self.auto_augment and "3a" not in self.auto_augment:
            raise InputError(
                "augmentation.color_jitter goes with no augmentation.auto_augment but 3a: set one of them to 0 or null"
            )


def training_preprocess(image_format: ImageFormat, augmentation: AugmentationConfig) -> Preprocess:
    """timm's training transform: PIL image -> (3, size, size), or (3, H, W) with `max_tokens`.

    It draws from the global generators.

    Raises:
        InputError: a policy that timm does not know.
    """
    try:
        transform = create_transform(
            (3, image_format.size, image_format.size),
            is_training=True,
            scale=augmentation.scale,
            ratio=augmentation.ratio,
            hflip=augmentation.horizontal_flip,
            vflip=augmentation.vertical_flip,
            color_jitter=augmentation.color_jitter or None,  # type: ignore[arg-type]
            auto_augment=augmentation.auto_augment,
            re_prob=augmentation.random_erasing,
            re_mode=augmentation.random_erasing_mode,
            interpolation=image_format.interpolation,
            mean=image_format.mean,
            std=image_format.std,
            naflex=image_format.max_tokens is not None,
        )
        if image_format.max_tokens is not None:
            transform.transforms[0] = CropWithinSequence(
                image_format.patch_size,
                image_format.max_tokens,
                augmentation.scale,
                augmentation.ratio,
                image_format.interpolation,
            )
        allow_zero_bits(transform)
        # A policy's mistakes show only at its first image.
        with seeded_generators(np.random.SeedSequence(0)):
            transform(Image.new("RGB", (image_format.size, image_format.size)))
    except (AssertionError, ImportError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"augmentation.auto_augment {augmentation.auto_augment!r} is no policy that timm knows "
            f"(such as rand-m9-mstd0.5-inc1): {str(error) or type(error).__name__}"
        ) from None
    return transform


def evaluation_preprocess(image_format: ImageFormat, size: int | None = None) -> Preprocess:
    """timm's evaluation transform: resize, crop the middle, normalise; to another `size` than the format's if given.

    With `max_tokens` and no `size` given, images are not cropped and keep their shape.
    """
    keeps_shape = image_format.max_tokens is not None and size is None
    size = size or image_format.size
    transform = create_transform(
        (3, size, size),
        is_training=False,
        interpolation=image_format.interpolation,
        mean=image_format.mean,
        std=image_format.std,
        crop_pct=image_format.crop_pct,
        crop_mode="center",
        naflex=keeps_shape,
    )
    if keeps_shape:
        assert image_format.max_tokens is not None
        transform.transforms[0] = FitSequence(
            image_format.patch_size, image_format.max_tokens, image_format.interpolation
        )
    return transform


class LabelledTransform:
    """One labelled sample as tensors.

    Args:
        preprocess: PIL image -> (3, H, W) float tensor; may draw from the global random generators.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, sample: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Tensor | int]:
        """A dict with "image" (3, H, W), "label" and "index"."""
        return {"image": self.preprocess(sample["image"]), "label": sample["label"], "index": sample["index"]}
