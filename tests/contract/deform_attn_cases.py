"""Random inputs for the tests of deform_attn."""

import torch
from torch import Tensor

Shapes = list[tuple[int, int]]


def draw(
    shapes: Shapes,
    *,
    batch: int = 2,
    queries: int = 7,
    heads: int = 3,
    head_dim: int = 5,
    points: int = 4,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """values, locations inside and outside of the maps, weights."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(height * width for height, width in shapes)
    values = torch.randn(batch, tokens, heads, head_dim, generator=generator, dtype=torch.float64)
    place = (batch, queries, heads, len(shapes), points)
    locations = 1.8 * torch.rand(*place, 2, generator=generator, dtype=torch.float64) - 0.4
    weights = torch.randn(place, generator=generator, dtype=torch.float64)
    return values.to(dtype), locations.to(dtype), weights.to(dtype)
