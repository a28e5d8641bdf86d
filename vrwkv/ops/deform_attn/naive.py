"""Multi-scale deformable attention by its definition, in float64: level by level, point by point, corner by corner."""

from collections.abc import Sequence

import torch
from torch import Tensor


def deform_attn_naive(values: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Σ over levels and points of weight · (the level's map at the location), per query and head.

    Deformable DETR (arXiv 2010.04159), Eq. 3, without the projections around it.

    Args:
        values: (B, ΣHW, heads, head_dim).
        shapes: (height, width) of each level.
        locations: (B, Q, heads, levels, points, 2), (x, y) in [0, 1] over the level.
        weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads · head_dim), dtype of `values`.
    """
    out = values.new_zeros(*locations.shape[:3], values.shape[3], dtype=torch.float64)
    start = 0
    for level, (height, width) in enumerate(shapes):
        level_map = values[:, start : start + height * width].double().unflatten(1, (height, width))
        start += height * width
        for point in range(locations.shape[4]):
            x, y = locations[:, :, :, level, point].double().unbind(-1)
            # The centre of the first cell is 0.
            sample = _bilinear(level_map, x * width - 0.5, y * height - 0.5)
            out = out + weights[:, :, :, level, point, None].double() * sample
    return out.flatten(2).to(values.dtype)


def _bilinear(level_map: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`level_map` (B, H, W, heads, head_dim) at x, y (B, Q, heads), with zeros around it -> (B, Q, heads, head_dim).

    Where x or y hits a cell's centre the slope changes: the derivative is that towards larger coordinates.
    """
    batch, height, width, heads, _ = level_map.shape
    image = torch.arange(batch, device=x.device)[:, None, None]
    head = torch.arange(heads, device=x.device)
    # One cell outside all is zero, and stays so further out.
    x, y = x.clamp(-1, width), y.clamp(-1, height)
    left, top = x.detach().floor(), y.detach().floor()
    sample = torch.zeros_like(level_map[:, :1, 0])
    for row, row_share in ((top, top + 1 - y), (top + 1, y - top)):
        for column, column_share in ((left, left + 1 - x), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            row_inside, column_inside = torch.where(inside, row, 0).long(), torch.where(inside, column, 0).long()
            cell = torch.where(inside[..., None], level_map[image, row_inside, column_inside, head], 0.0)
            sample = sample + (row_share * column_share)[..., None] * cell
    return sample
