"""From a sample (image, captions) to the tensors that a model takes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from rwkv_clip.data.config import AugmentationConfig

if TYPE_CHECKING:
    from open_clip.transform import PreprocessCfg

Preprocess = Callable[[Image.Image], Tensor]
Tokenizer = Callable[[list[str]], Tensor]


class PairTransform:
    """One image and one of its captions, drawn uniformly.

    Args:
        preprocess: PIL image -> (3, H, W) float tensor; may draw from the global random generators.
        tokenizer: N captions -> (N, context_length) int64.
    """

    def __init__(self, preprocess: Preprocess, tokenizer: Tokenizer) -> None:
        self.preprocess = preprocess
        self.tokenizer = tokenizer

    def __call__(self, sample: dict[str, Any], generator: np.random.Generator) -> dict[str, Tensor | int]:
        """A dict with "image" (3, H, W), "text" (context_length,) and, where the sample has them, "index", "label"."""
        captions = sample["captions"]
        caption = captions[int(generator.integers(len(captions)))]
        return {
            "image": self.preprocess(sample["image"]),
            "text": self.tokenizer([caption])[0],
            **_numbers(sample),
        }


class ImageTransform:
    """The image alone, for zero-shot classification and for embedding images.

    Args:
        preprocess: PIL image -> (3, H, W) float tensor.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, sample: dict[str, Any], generator: np.random.Generator) -> dict[str, Tensor | int]:
        """A dict with "image" (3, H, W) and, where the sample has them, "index" and "label"."""
        return {"image": self.preprocess(sample["image"]), **_numbers(sample)}


def training_preprocess(preprocess: "PreprocessCfg", augmentation: AugmentationConfig) -> Preprocess:
    """open_clip's training transform, preceded by the horizontal flip that it does not offer.

    Args:
        preprocess: size, mean, std and interpolation of the model's images.
        augmentation: what to vary.
    """
    from open_clip.transform import image_transform_v2
    from torchvision.transforms import Compose, RandomHorizontalFlip

    transform: Preprocess = image_transform_v2(preprocess, is_train=True, aug_cfg=augmentation.to_open_clip())
    if augmentation.horizontal_flip:
        transform = Compose([RandomHorizontalFlip(augmentation.horizontal_flip), transform])
    return transform


def _numbers(sample: dict[str, Any]) -> dict[str, int]:
    return {key: sample[key] for key in ("index", "label") if key in sample}
