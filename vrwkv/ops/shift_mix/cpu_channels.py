"""Where the compiled loops of shift-and-mix find the neighbour of each channel, and the tables that say so.

Channels are taken 16 at a time. All of a block look in one direction, or, where groups do not end at multiples of 16, a
mask for each direction says which do. The last block starts early if the channels are no multiple of 16; a mask keeps
sums from counting its first channels twice.
"""

from functools import lru_cache

import torch
from numba import float32
from torch import Tensor

from vrwkv.ops.cpu_runtime.functions import inlined, load
from vrwkv.ops.cpu_runtime.vectors import LANES, choose, float_at, fused, load32, zeros32

LEFT, RIGHT, ABOVE, BELOW, UNMOVED, SEVERAL = range(6)


@lru_cache(maxsize=64)
def channel_tables(channels: int, bounds: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Runs of blocks that look the same way, masks, and what the last block adds.

    Args:
        channels: at least 16.
        bounds: ends of the four groups inside a head, and the size of a head.

    Returns:
        (runs, 3) int64 first channel, end and direction of runs of blocks; a run that looks in several is one block.
        (5, channels) float32 masks of the directions.
        (16,) float32 the lanes of the last block that no other block has.
    """
    within = torch.arange(channels) % bounds[4]
    direction = torch.bucketize(within, torch.tensor(bounds[:4]), right=True)
    masks = torch.stack([(direction == each).float() for each in range(5)])
    starts = [min(start, channels - LANES) for start in range(0, channels, LANES)]
    runs: list[tuple[int, int, int]] = []
    for start in starts:
        present = direction[start : start + LANES].unique().tolist()
        kind = present[0] if len(present) == 1 else SEVERAL
        if runs and kind != SEVERAL and runs[-1][1:] == (start, kind):
            runs[-1] = (runs[-1][0], start + LANES, kind)
        else:
            runs.append((start, start + LANES, kind))
    fresh = (torch.arange(LANES) >= len(starts) * LANES - channels).float()
    return torch.tensor(runs), masks.contiguous(), fresh


@inlined
def place_of(token, image_tokens, width):  # type: ignore[no-untyped-def]
    """Number inside its image, row and column of a token, or of the one before the first; divisions are slow."""
    if token < 0:
        return image_tokens - 1, 0, 0
    place = token % image_tokens
    return place, place // width, place % width


@inlined
def next_place(place, row, column, image_tokens, height, width):  # type: ignore[no-untyped-def]
    """The same of the token after; the row is -1 for tokens after the grid."""
    if place + 1 == image_tokens:
        return 0, 0, 0
    if place + 1 >= height * width:
        return place + 1, -1, 0
    if column + 1 == width:
        return place + 1, row + 1, 0
    return place + 1, row, column + 1


@inlined
def neighbour(token, direction, row, column, height, width, shift):  # type: ignore[no-untyped-def]
    """The token that lies `shift` away in a direction, -1 outside the grid; tokens after the grid are their own."""
    if row < 0 or direction == UNMOVED:
        return token
    if direction == LEFT:
        return token - shift if column >= shift else -1
    if direction == RIGHT:
        return token + shift if column + shift < width else -1
    if direction == ABOVE:
        return token - shift * width if row >= shift else -1
    return token + shift * width if row + shift < height else -1


@inlined
def token_statistics(statistics, token, total):  # type: ignore[no-untyped-def]
    """Mean of a token, what rounding left of it, 1 / deviation; what changes nothing if there is no norm or token."""
    if statistics == 0 or token < 0:
        return float32(0.0), float32(0.0), float32(1.0)
    place = statistics + token * 4
    return float_at(place), float_at(place + total * 4), float_at(place + 2 * total * 4)


@inlined
def normalised(value, found, normed, weight, bias):  # type: ignore[no-untyped-def]
    """16 channels after the norm with the statistics `found`, if there is one."""
    if not normed:
        return value
    return fused(((value - found[0]) - found[1]) * found[2], load32(weight), load32(bias))


@inlined
def seen_in_several(  # type: ignore[no-untyped-def]
    x, token, channel, masks, channels, row, column, height, width, shift,
    stride, storage, size, statistics, total, weight, bias,
):  # fmt: skip
    """What 16 channels that look in several directions see."""
    seen = zeros32()
    for direction in range(5):
        other = neighbour(token, direction, row, column, height, width, shift)
        if other >= 0:
            value = normalised(
                load(x + other * stride + channel * size, storage),
                token_statistics(statistics, other, total),
                statistics != 0,
                weight + channel * 4,
                bias + channel * 4,
            )
            seen = choose(load32(masks + (direction * channels + channel) * 4), value, seen)
    return seen
