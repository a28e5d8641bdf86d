"""Position embeddings on another grid than the one they were learnt on."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor

from vrwkv.ops.exporting import exporting


@register_notrace_function
def resample_position_embedding(embedding: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """(1, T, C) on `old_grid` -> (1, T', C) on `new_grid`: bicubic, no aligned corners, no antialiasing."""
    # A symbolic grid of torch.export is no int and is never compared: equal at the traced size says nothing of others.
    if isinstance(new_grid[0], int) and isinstance(new_grid[1], int) and old_grid == new_grid:
        return embedding
    if not torch.jit.is_scripting():  # noqa: SIM102 (the scripting compiler wants the question alone)
        if _has_products(embedding):
            return _resample_by_products(embedding, old_grid, new_grid)
    maps = embedding.unflatten(1, old_grid).permute(0, 3, 1, 2)
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    maps = F.interpolate(maps, size=new_grid, mode="bicubic", align_corners=False)
    return maps.permute(0, 2, 3, 1).flatten(1, 2).to(embedding.dtype)


@torch.jit.unused
def _has_products(embedding: Tensor) -> bool:
    """Whether small products may be used: exported files hold fewer operators without, and "meta" has no autocast.

    torch knows which devices have one, but the compiler of torch 2.11 cannot trace the question.
    """
    return not exporting() and embedding.device.type != "meta"


@torch.jit.unused
def _resample_by_products(embedding: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """The same as two small matrix products; interpolating all channels takes as long as a block of the tiny model."""
    maps = embedding.to(torch.promote_types(embedding.dtype, torch.float32)).unflatten(1, old_grid)
    with torch.autocast(maps.device.type, enabled=False):
        rows, columns = (_weights(maps, *sizes) for sizes in zip(old_grid, new_grid, strict=True))
        maps = (rows @ maps.flatten(2)).unflatten(2, (old_grid[1], -1))
        return (columns @ maps).flatten(1, 2).to(embedding.dtype)


def _weights(like: Tensor, old: int, new: int) -> Tensor:
    """(new, old): the share of each old place in each new one, as interpolation gives it to a one at each place."""
    ones = torch.eye(old, dtype=like.dtype, device=like.device)[None, :, :, None]
    return F.interpolate(ones, size=(new, 1), mode="bicubic", align_corners=False)[0, :, :, 0].mT
