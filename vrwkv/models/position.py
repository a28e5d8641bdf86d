"""Position embeddings on another grid than the one they were learnt on."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resample_position_embedding(embedding: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """(1, T, C) on `old_grid` -> (1, T', C) on `new_grid`: bicubic, no aligned corners, no antialiasing."""
    if old_grid == new_grid:
        return embedding
    maps = embedding.unflatten(1, old_grid).permute(0, 3, 1, 2)
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    maps = F.interpolate(maps, size=new_grid, mode="bicubic", align_corners=False)
    return maps.permute(0, 2, 3, 1).flatten(1, 2).to(embedding.dtype)
