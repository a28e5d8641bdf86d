"""Shift-and-mix in standard operators, for grids of any size: what exported files hold and transforms look into.

The shift is one gather: channels that move together are a run, and a table of indices says which run of which token
comes to each place. Gathers copy whole runs; slices, pads and a concatenation would pass over memory twice as often.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vrwkv.ops.shift_mix.portable import COLUMNS, LOOKS, compute_dtype


def shift_mix_exported(
    x: Tensor,
    share: Tensor,
    correction: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    grid: Sequence[int],
    shift: int,
    bounds: Sequence[int],
) -> tuple[Tensor, ...]:
    """M mixtures (B, T, C); arguments as `shift_mix_naive`. B, T, and the grid may be symbols.

    Nothing is written in place and no statistics are kept: an exporter can trace it for any number of tokens.
    """
    compute = compute_dtype(x)
    z = x.to(compute)
    if norm_weight is not None and norm_bias is not None:
        z = F.layer_norm(z, z.shape[-1:], norm_weight.to(compute), norm_bias.to(compute), norm_eps)
    difference = _shifted(z, grid, shift, bounds) - z
    weights = list(share.to(compute))
    if correction is not None:
        weights = [weight + amount.to(compute) for weight, amount in zip(weights, correction, strict=True)]
    return tuple((z + difference * weight).to(x.dtype) for weight in weights)


def _shifted(z: Tensor, grid: Sequence[int], shift: int, bounds: Sequence[int]) -> Tensor:
    """(B, T, C) with every channel of the grid's tokens from where it looks; zeros come from outside the grid."""
    if bounds[3] == 0:
        return z
    run = math.gcd(*bounds)
    tokens, runs = grid[0] * grid[1], z.shape[2] // run
    patches = z[:, :tokens].reshape(z.shape[0], tokens * runs, run)
    # One run of zeros at the end, for all that come from outside.
    gathered = torch.index_select(F.pad(patches, (0, 0, 0, 1)), 1, _sources(grid, shift, bounds, run, runs, z.device))
    return torch.cat([gathered.reshape(z.shape[0], tokens, z.shape[2]), z[:, tokens:]], dim=1)


def _sources(
    grid: Sequence[int], shift: int, bounds: Sequence[int], run: int, runs: int, device: torch.device
) -> Tensor:
    """(T · runs,) which run comes to each place, for the T tokens of a grid; T · runs from outside it."""
    height, width = grid
    row, column = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    first = (row * width + column) * runs  # of each token's runs, (height, width)
    outside = height * width * runs
    seen = []  # by group of channels: the first run of the token that each token looks at
    for axis, look in LOOKS:
        steps = look * shift
        place, size, stride = (column, width, 1) if axis == COLUMNS else (row, height, width)
        inside = (place + steps >= 0) & (place + steps < size)
        seen.append(torch.where(inside, first + steps * stride * runs, outside))
    seen.append(first)
    own_runs = torch.arange(runs, device=device)
    groups = [sum(index * run % bounds[-1] >= bound for bound in bounds[:4]) for index in range(runs)]
    sources = torch.stack([seen[group] for group in groups], dim=2) + own_runs
    return sources.clamp(max=outside).flatten()
