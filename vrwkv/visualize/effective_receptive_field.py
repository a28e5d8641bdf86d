"""Effective receptive field: how strongly each pixel moves the features of one patch."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.visualize.patch_features import patch_features
from vrwkv.visualize.patch_grid import checked_patch

Projection = Literal["sum", "signs"]

# Below this spread, relative to that of independent channels, the sum of a patch's channels is rounding noise.
_CONSTANT = 1e-3


def effective_receptive_field(
    model: nn.Module,
    images: Tensor,
    *,
    block: int = -1,
    patch: tuple[int, int] | None = None,
    projection: Projection = "sum",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Mean over images of |d(projected features of one patch) / d pixel|, summed over colours, the largest set to 1.

    Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural Networks (arXiv 1701.04128).
    The features are those after the block, before the final norm: a layer norm with equal weights gives every patch
    the same sum of channels, whose gradient is zero. See `sum_is_constant` for models in which the blocks do so, too.

    Args:
        model: as for `patch_features`.
        images: (B, 3, H, W), normalised as the model expects; taken one after the other, so memory is that of one.
        block: index of the block, negative ones counted from the end.
        patch: (row, column) in the grid; by default the centre, which of an even number is the later one.
        projection: "sum" of the channels, or their sum with "signs" drawn once at random.
        progress: called with the number of images that are done.

    Returns:
        (H, W) float64 on the CPU, between 0 and 1.

    Raises:
        InputError: no images, a patch outside the grid, or a gradient that is zero or not finite.
    """
    if images.ndim != 4 or len(images) == 0:
        raise InputError(f"images must be (B, 3, H, W) with at least one image, not {tuple(images.shape)}")
    total = torch.zeros(images.shape[-2:], dtype=torch.float64)
    for number, image in enumerate(images.split(1), start=1):
        total += _absolute_gradient(model, image, block, patch, projection)
        if progress is not None:
            progress(number)
    largest = total.max().item()
    if not 0 < largest < math.inf:
        raise InputError(
            f"the gradient of {type(model).__name__} is {'zero' if largest == 0 else 'not finite'}: "
            "there is no effective receptive field to show"
        )
    return total / largest


def _absolute_gradient(
    model: nn.Module, image: Tensor, block: int, patch: tuple[int, int] | None, projection: Projection
) -> Tensor:
    with torch.enable_grad():
        pixels = image.detach().clone().requires_grad_()
        features = patch_features(model, pixels, block, norm=False)[0]
        height, width = features.shape[:2]
        row, column = checked_patch(patch or (height // 2, width // 2), (height, width))
        weight = torch.ones(features.shape[-1]) if projection == "sum" else _signs(features.shape[-1])
        target = (features[row, column] * weight.to(features)).sum()
        (gradient,) = torch.autograd.grad(target, pixels)
    return gradient[0].abs().sum(0).cpu().double()


def _signs(channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 2, (channels,), generator=generator) * 2.0 - 1.0


def sum_is_constant(model: nn.Module, image: Tensor, block: int = -1) -> bool:
    """Whether every patch has the same sum of channels, whatever the image: its gradient would be rounding noise.

    So it is in untrained models whose residual branches end in a norm (`post_norm`, as VRWKV-S, -B and -L have):
    norms with equal weights take every sum to 0. There `projection="signs"` has a gradient.

    Args:
        model: as for `patch_features`.
        image: (1, 3, H, W) with some detail.
        block: as for `effective_receptive_field`.
    """
    with torch.no_grad():
        features = patch_features(model, image, block, norm=False)[0].cpu().double().flatten(0, 1)
    spread = features.sum(-1).std(correction=0)
    independent = math.sqrt(features.shape[-1]) * features.std(correction=0)
    return bool(spread < _CONSTANT * independent)


def cumulative_share(field: Tensor) -> Tensor:
    """(H, W) -> (H·W + 1,): share of the field's sum that the 0, 1, 2, … strongest pixels hold, from 0 to 1."""
    sums = field.double().flatten().sort(descending=True).values.cumsum(0)
    return torch.cat([sums.new_zeros(1), sums / sums[-1]])


def area_share(field: Tensor, share: float = 0.95) -> float:
    """The smallest share of the area whose pixels together hold `share` of the field: 1 for none less than all.

    Args:
        field: (H, W), not negative, not all zero.
        share: between 0 and 1.
    """
    curve = cumulative_share(field)
    # The last bits of a running sum over many pixels must not ask for one more pixel.
    needed = int((curve < share * (1 - 1e-12)).sum())
    return needed / field.numel()
