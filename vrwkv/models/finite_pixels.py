"""The check behind `check_finite`: no NaN or infinity enters a model."""

import torch
from timm.layers import register_notrace_function
from torch import Tensor


@register_notrace_function
@torch.jit.ignore
def check_finite_pixels(images: Tensor) -> None:
    """Refuse images (B, C, H, W) with a pixel that is NaN or infinite.

    Raises:
        ValueError: such a pixel; the message names the first image that has one.
    """
    finite = images.isfinite()
    if finite.all():
        return
    counts = (~finite).flatten(1).sum(1)
    first = int(counts.nonzero()[0])
    raise ValueError(
        f"image {first} of the batch has {int(counts[first])} values that are NaN or infinite "
        f"({int((counts > 0).sum())} of {len(counts)} images have such values): look at how it was read and normalised"
    )
