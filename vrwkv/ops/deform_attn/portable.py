"""Multi-scale deformable attention in plain torch, on any device: a weighted sum of rows of a table.

Every location reads the four cells around it, so a query's head sums 4 · levels · points rows of the values. That is
`embedding_bag`, which keeps none of the rows that it reads. On a CPU it takes a quarter of the time of `grid_sample`,
three quarters with the backward pass, and needs no copy of the values.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vrwkv.ops.deform_attn.exported import deform_attn_exported
from vrwkv.ops.exporting import exporting


def deform_attn_torch(values: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Multi-scale deformable attention; arguments as `vrwkv.ops.deform_attn`."""
    compute = torch.promote_types(values.dtype, torch.float32)
    arguments = (values.to(compute), shapes, locations.to(compute), weights.to(compute))
    out = deform_attn_exported(*arguments) if exporting() else _sum_of_rows(*arguments)
    return out.to(values.dtype)


def _sum_of_rows(values: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    rows, shares = _rows_and_shares(values, shapes, locations, weights)
    table = values.reshape(-1, values.shape[3])
    out = F.embedding_bag(rows.flatten(0, 2), table, mode="sum", per_sample_weights=shares.flatten(0, 2))
    return out.unflatten(0, locations.shape[:3]).flatten(2)


def _rows_and_shares(
    values: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """What each query's heads read: rows of the values (B · ΣHW · heads, head_dim), and with which factors.

    Both (B, Q, heads, 4 · levels · points).
    """
    batch, tokens, heads, _ = values.shape
    image = torch.arange(batch, device=values.device)[:, None, None, None] * tokens
    head = torch.arange(heads, device=values.device)[:, None]
    rows, shares = [], []
    start = 0
    for level, (height, width) in enumerate(shapes):
        first_row = (image + start) * heads + head
        columns = _cells_around(locations[..., level, :, 0], width)
        lines = _cells_around(locations[..., level, :, 1], height)
        for line, line_share in lines:
            line_row, line_weight = line * (width * heads) + first_row, line_share * weights[..., level, :]
            for column, column_share in columns:
                rows.append(column * heads + line_row)
                shares.append(column_share * line_weight)
        start += height * width
    return torch.cat(rows, -1), torch.cat(shares, -1)


def _cells_around(location: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Along one axis of `size` cells, the two cells whose centres enclose each location, and the share of each.

    Cells outside have share 0, and are replaced by the nearest inside.
    """
    coordinate = (location * size - 0.5).clamp(-1, size)  # beyond, all is zero, and integers could overflow
    low = coordinate.detach().floor()
    beyond = coordinate - low
    cell = low.long()
    # Products, not a choice: a location that is not a number shows in the result.
    return [
        (cell.clamp(0, size - 1), (1 - beyond) * ((cell >= 0) & (cell < size))),
        ((cell + 1).clamp(0, size - 1), beyond * (cell < size - 1)),
    ]
