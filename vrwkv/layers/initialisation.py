"""The published starting values of decays, bonuses and mixes: functions of the channel and of the layer's depth.

`layer` counts from 0 and `depth` is the number of layers. The released code divides by `depth - 1`; here a single layer
counts as the first of many. All are computed on the CPU, whatever the default device: accelerators round differently,
and some have no float64.
"""

import math

import torch
from torch import Tensor


def _shares(dim: int, layer: int, depth: int) -> tuple[Tensor, float, float]:
    """c / C for each channel; how far down the layer is, from 0 to 1; and how far from the end, from 1 towards 0."""
    share = torch.arange(dim, dtype=torch.float64, device="cpu") / dim
    return share, layer / max(depth - 1, 1), 1 - layer / depth


def fancy_mix(dim: int, layer: int, depth: int, role: str) -> Tensor:
    """(dim,) float64 weight of a token's own value over the shifted one's; `role` is "key", "value" or "receptance"."""
    share, down, up = _shares(dim, layer, depth)
    if role == "value":
        return share**up + 0.3 * down
    return share ** (0.5 * up if role == "receptance" else up)


def fancy_decay(dim: int, layer: int, depth: int, low: float, high: float) -> Tensor:
    """(dim,) float64 decays that rise from `low` at the first channel to `high` at the last."""
    _, down, _ = _shares(dim, layer, depth)
    channel = torch.arange(dim, dtype=torch.float64, device="cpu") / max(dim - 1, 1)
    return low + (high - low) * channel ** (0.7 + 1.3 * down)


def zigzag(dim: int) -> Tensor:
    """(dim,) float64: 0, 1, -1, 0, 1, -1, … which sets neighbouring channels apart."""
    return (torch.arange(dim, dtype=torch.float64, device="cpu") + 1) % 3 - 1


def fancy_bonus(dim: int) -> Tensor:
    """(dim,) float64 bonus of Bi-WKV: ln 0.3 and half a step around it."""
    return math.log(0.3) + 0.5 * zigzag(dim)


def fancy_bonus6(dim: int, layer: int, depth: int) -> Tensor:
    """(dim,) float64 bonus of Bi-WKV6, over heads and channels in order."""
    _, down, _ = _shares(dim, layer, depth)
    channel = torch.arange(dim, dtype=torch.float64, device="cpu") / max(dim - 1, 1)
    return down * (1 - channel) + 0.1 * zigzag(dim)
