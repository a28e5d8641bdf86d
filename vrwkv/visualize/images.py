"""Pictures to look at: files or scikit-learn's samples, cut to squares, normalised as a model expects."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.transforms.functional import InterpolationMode, center_crop, pil_to_tensor, resize

from vrwkv.errors import InputError

SAMPLES = ("china.jpg", "flower.jpg")


def sample_files() -> list[Path]:
    """The two photographs that come with scikit-learn: a pagoda and a flower.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise InputError("no images given, and scikit-learn, which brings two, is not installed: name some") from None
    folder = Path(datasets.__file__).parent / "images"
    return [folder / name for name in SAMPLES]


def square(image: Image.Image, size: int) -> Image.Image:
    """The middle of a picture, `size` × `size` pixels: the shorter side is resized (bicubic), the longer one cut."""
    resized = resize(image, [size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return center_crop(resized, [size, size])


def model_input(model: nn.Module, pictures: Sequence[Image.Image]) -> Tensor:
    """(B, 3, H, W) float32 on the device of the model, normalised with the mean and deviation it was made for.

    Args:
        model: a model of timm or of ours; one without `pretrained_cfg` gets ImageNet's mean and deviation.
        pictures: RGB pictures of one size.
    """
    settings = getattr(model, "pretrained_cfg", None) or {}
    mean = torch.tensor(settings.get("mean", IMAGENET_DEFAULT_MEAN)).view(3, 1, 1)
    deviation = torch.tensor(settings.get("std", IMAGENET_DEFAULT_STD)).view(3, 1, 1)
    pixels = torch.stack([pil_to_tensor(picture).float().div_(255) for picture in pictures])
    return ((pixels - mean) / deviation).to(next(model.parameters()).device)
