"""Position embeddings on another grid than the one they were learnt on."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor


@register_notrace_function
def resample_position_embedding(embedding: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """(1, T, C) on `old_grid` -> (1, T', C) on `new_grid`: bicubic, no aligned corners, no antialiasing."""
    # A symbolic grid of torch.export is no int and is never compared: equal at the traced size says nothing of others.
    if isinstance(new_grid[0], int) and isinstance(new_grid[1], int) and old_grid == new_grid:
        return embedding
    maps = embedding.unflatten(1, old_grid).permute(0, 3, 1, 2)
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    maps = F.interpolate(maps, size=new_grid, mode="bicubic", align_corners=False)
    return maps.permute(0, 2, 3, 1).flatten(1, 2).to(embedding.dtype)
