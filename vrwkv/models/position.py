"""Position embeddings on another grid than the one they were learnt on."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from vrwkv.layers.large_inputs import is_eager_inference

Size = tuple[int, int]
MOST_KEPT = 4  # embeddings for other sizes than the native one,
LARGEST_KEPT = 4 << 20  # each of so many bytes at most: next to a pass on larger images, resizing takes no time


class _Kept(NamedTuple):
    old_grid: Size
    new_grid: Size
    embedding: Tensor  # a copy
    resized: Tensor


_kept: list[_Kept] = []  # the last one used at the end; never changed, but replaced


@register_notrace_function
def position_for(tokens: Tensor, embedding: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """`resample_position_embedding` for `tokens` (B, T', C); nobody may write to the result.

    In eager inference on the CPU it remembers the last few. An embedding counts as the same if its numbers are: that is
    a hundredth of the work, while versions miss what is written through `.data` or by others that share the memory.
    """
    if torch.jit.is_scripting():
        return resample_position_embedding(embedding, old_grid, new_grid)
    return _remembered(tokens, embedding, old_grid, new_grid)


def _remembered(tokens: Tensor, embedding: Tensor, old_grid: Size, new_grid: Size) -> Tensor:
    if (
        not is_eager_inference(tokens)
        or type(embedding) is not nn.Parameter
        or embedding.device != tokens.device
        or old_grid == new_grid
    ):
        return resample_position_embedding(embedding, old_grid, new_grid)
    global _kept
    kept = _kept
    for found in kept:
        if (
            found.new_grid == new_grid
            and found.old_grid == old_grid
            and found.embedding.dtype == embedding.dtype
            and torch.equal(found.embedding, embedding)
        ):
            _kept = [other for other in kept if other is not found] + [found]
            return found.resized
    resized = resample_position_embedding(embedding, old_grid, new_grid)
    if max(resized.nbytes, embedding.nbytes) <= LARGEST_KEPT:
        _kept = [*kept, _Kept(old_grid, new_grid, embedding.detach().clone(), resized)][-MOST_KEPT:]
    return resized


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
