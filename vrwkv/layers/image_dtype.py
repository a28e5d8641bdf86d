"""The check of what images consist of: torch's own words for it come late and name neither images nor remedy."""

import torch
from torch import Tensor


def check_image_dtype(images: Tensor, weight: Tensor) -> None:
    """Refuse images that the first product with `weight` would refuse: other than floating point, or of another dtype.

    Raises:
        ValueError: such images. With autocast, which converts most dtypes, only those that are not floating point.
    """
    if not images.is_floating_point():
        raise ValueError(
            f"images must be floating point, not {images.dtype}: scale 8-bit pixels with images.float() / 255 and "
            "normalise them with mean and std of timm.data.resolve_model_data_config(model)"
        )
    # Meta tensors have no autocast, and go through whatever their dtype.
    if images.dtype != weight.dtype and not images.is_meta and not torch.is_autocast_enabled(images.device.type):
        raise ValueError(
            f"images are {images.dtype} and the model's weights {weight.dtype}: convert one of them, e.g. with "
            f"images.to({weight.dtype})"
        )
