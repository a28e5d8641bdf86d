"""Shift-and-mix by its definition, in float64: every element looks up its neighbour. The oracle of faster backends."""

from collections.abc import Sequence

import torch
from torch import Tensor


def shift_mix_naive(
    x: Tensor,
    share: Tensor,
    correction: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    grid: Sequence[int],
    shift: int,
    bounds: Sequence[int],
) -> Tensor:
    """out[m] = z + (shifted z - z) · (share[m] + correction[m]) with z = layer_norm(x), or x without norm parameters.

    Vision-RWKV (arXiv 2403.02308), Eq. 1 and 2; the correction is that of RWKV-6 (arXiv 2404.05892).

    Args:
        x: (B, T, C) tokens in raster order over the grid, then any that are not shifted.
        share: (M, C) share of the shifted token in each mixture.
        correction: (M, B, T, C) added to the share of each token.
        norm_weight, norm_bias: (C,) of the norm over the channels, both or neither.
        norm_eps: its epsilon.
        grid: height, width in tokens.
        shift: distance to the neighbour, in tokens.
        bounds: inside a head, the channel at which each group ends: those that look left, right, above, below and
            those that stay. The last is the size of a head.

    Returns:
        (M, B, T, C), dtype of `x`.
    """
    z = x.double()
    if norm_weight is not None and norm_bias is not None:
        deviation = z - z.mean(2, keepdim=True)
        variance = deviation.square().mean(2, keepdim=True)
        z = deviation * torch.rsqrt(variance + norm_eps) * norm_weight.double() + norm_bias.double()
    source, inside = _neighbours(x.shape[1], x.shape[2], grid, shift, bounds, x.device)
    shifted = torch.where(inside, z.gather(1, source.expand_as(z)), 0.0)
    weight = share.double()[:, None, None]
    if correction is not None:
        weight = weight + correction.double()
    return (z + (shifted - z) * weight).to(x.dtype)


def _neighbours(
    tokens: int, channels: int, grid: Sequence[int], shift: int, bounds: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """For each token and channel: the token it looks at, and whether that one lies on the grid (if not, 0 is seen)."""
    height, width = grid
    token = torch.arange(tokens, device=device)[:, None]
    within_head = torch.arange(channels, device=device) % bounds[-1]
    group = torch.bucketize(within_head, torch.tensor(bounds[:4], device=device), right=True)
    down = torch.tensor([0, 0, -shift, shift, 0], device=device)[group]
    right = torch.tensor([-shift, shift, 0, 0, 0], device=device)[group]
    row, column = token // width + down, token % width + right
    on_grid = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    stays = token >= height * width
    source = torch.where(stays, token, torch.where(on_grid, row * width + column, 0))
    return source, stays | on_grid
