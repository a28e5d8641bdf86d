"""Q-shift: each quarter of the channels looks at another neighbour on the grid."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from vrwkv.ops.argument_checks import check_floating, check_shape


def q_shift(x: Tensor, grid: tuple[int, int], *, num_heads: int = 1, shift: int = 1, gamma: float = 0.25) -> Tensor:
    """Replace, inside every head, four groups of channels by those of the left, right, upper and lower neighbour.

    Vision-RWKV (released code; its paper lists the vertical pair first). Group j holds the channels
    [int(N·gamma·j), int(N·gamma·(j+1))) of a head of N channels; channels past the fourth group stay. Zeros come in
    from outside the grid.

    Args:
        x: (B, T, C) tokens in raster order, T = height · width.
        grid: (height, width) in tokens.
        num_heads: heads that C is divided into.
        shift: distance to the neighbour, in tokens; 0 returns `x`.
        gamma: share of a head's channels that moves in each direction, at most 1/4.

    Returns:
        (B, T, C).

    Raises:
        ValueError: grid is not two positive numbers, T is not height · width, C is not a multiple of num_heads, or
            shift or gamma is out of range.
    """
    check_floating(x=x)
    check_shape("x", x, (None, None, None), "(B, T, C)")
    if not isinstance(grid, (tuple, list)) or len(grid) != 2 or grid[0] < 1 or grid[1] < 1:
        raise ValueError(f"grid must be (height, width), each at least 1, not {grid}")
    height, width = grid
    if x.shape[1] != height * width:
        raise ValueError(f"x has {x.shape[1]} tokens, but grid {height}×{width} has {height * width}")
    if num_heads < 1 or x.shape[2] % num_heads:
        raise ValueError(f"num_heads must divide the {x.shape[2]} channels of x, not {num_heads}")
    if shift < 0:
        raise ValueError(f"shift must be at least 0, not {shift}")
    if not 0 <= gamma <= 0.25:
        raise ValueError(f"gamma must be between 0 and 1/4, not {gamma}")
    if shift == 0:
        return x
    head_dim = x.shape[2] // num_heads
    bounds = [int(head_dim * gamma * group) for group in range(5)]
    sizes = [end - start for start, end in pairwise(bounds)] + [head_dim - bounds[-1]]
    maps = x.unflatten(2, (num_heads, head_dim)).unflatten(1, (height, width))
    left, right, above, below, unmoved = maps.split(sizes, dim=-1)
    # Padding names the last axis first: channel, head, width, height.
    shifted = [
        F.pad(left, (0, 0, 0, 0, shift, 0))[:, :, :width],
        F.pad(right, (0, 0, 0, 0, 0, shift))[:, :, shift:],
        F.pad(above, (0, 0, 0, 0, 0, 0, shift, 0))[:, :height],
        F.pad(below, (0, 0, 0, 0, 0, 0, 0, shift))[:, shift:],
        unmoved,
    ]
    return torch.cat(shifted, dim=-1).flatten(1, 2).flatten(2, 3)
