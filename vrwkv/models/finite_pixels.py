"""The check behind `check_finite`: no NaN or infinity enters a model."""

from timm.layers import register_notrace_function
from torch import Tensor


@register_notrace_function
def check_finite_pixels(images: Tensor) -> None:
    """Refuse images (B, C, H, W) with a pixel that is NaN or infinite.

    Raises:
        ValueError: such a pixel; the message names the first image that has one.
    """
    finite = images.isfinite()
    if finite.all():
        return
    counts = (~finite).flatten(1).sum(1)
    affected = int((counts > 0).sum())
    first = int(counts.nonzero()[0])
    found = int(counts[first])
    raise ValueError(
        f"image {first} of the batch has {found} values that are NaN or infinite ({affected} of {len(counts)} images "
        f"have such values): look at how it was read and normalised"
    )
