"""What the Triton kernels of shift-and-mix share: elements, where their neighbours are, and how much more those hold.

Tiles are (t, c): tokens by channels. Tokens are counted through the batch in 32 bits, addresses are 64 bits wide.
END_1 … END_4 are the channels at which the groups end inside a head (left, right, above, below).

A neighbour's address jumps where a group ends. ALIGN, a power of two, divides all those ends, so that a run of ALIGN
channels looks the same way. Directions are computed from the first channel of the run: the compiler then sees that the
addresses of a run are contiguous and their masks equal, and loads it as one vector.
"""

# mypy: ignore-errors
# Kernels are written in Triton's language, whose values have no Python types.

import triton
import triton.language as tl

FAR = tl.constexpr(-(2**30))


@triton.jit
def place_on_grid(token, total, image_tokens, height, width):
    """Row and column of tokens (t,); far outside for those that do not lie on the grid, which see nobody."""
    place = token % image_tokens
    on_grid = (token < total) & (place < height * width)
    return tl.where(on_grid, place // width, FAR), tl.where(on_grid, place % width, FAR)


@triton.jit
def neighbour(
    row,
    column,
    within,
    height,
    width,
    shift,
    END_1: tl.constexpr,
    END_2: tl.constexpr,
    END_3: tl.constexpr,
    END_4: tl.constexpr,
):
    """For tokens (t,) and channels `within` their head (1, c): tokens to the neighbour (1, c) and three masks (t, c).

    The masks: whether the element moves at all, whether the neighbour that it sees lies on the grid, and whether that
    on the opposite side does, which sees the element.
    """
    right = tl.where(within < END_1, -shift, tl.where(within < END_2, shift, 0))
    down = tl.where(within < END_2, 0, tl.where(within < END_3, -shift, shift))
    right = tl.where(within < END_4, right, 0)
    down = tl.where(within < END_4, down, 0)
    row, column = row[:, None], column[:, None]
    moves = (row >= 0) & (within < END_4)
    sees = moves & (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width)
    seen = moves & (row - down >= 0) & (row - down < height) & (column - right >= 0) & (column - right < width)
    return down * width + right, moves, sees, seen


@triton.jit
def value_of_neighbour(
    values,
    token,
    row,
    column,
    within,
    height,
    width,
    shift,
    END_1: tl.constexpr,
    END_2: tl.constexpr,
    END_3: tl.constexpr,
):
    """From one value per token, that of the token which each element (t, c) sees; 0 outside the grid.

    Four loads per token and a choice, instead of one load per element.
    """
    left = tl.load(values + token - shift, column >= shift, other=0.0)
    right = tl.load(values + token + shift, (column >= 0) & (column + shift < width), other=0.0)
    above = tl.load(values + token - shift * width, row >= shift, other=0.0)
    below = tl.load(values + token + shift * width, (row >= 0) & (row + shift < height), other=0.0)
    horizontal = tl.where(within < END_1, left[:, None], right[:, None])
    return tl.where(within < END_2, horizontal, tl.where(within < END_3, above[:, None], below[:, None]))


@triton.jit
def look_around(
    token,
    channel,
    total,
    image_tokens,
    height,
    width,
    shift,
    HEAD: tl.constexpr,
    END_1: tl.constexpr,
    END_2: tl.constexpr,
    END_3: tl.constexpr,
    END_4: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """Row and column of tokens (t,), channels within their head (1, c), and what `neighbour` returns: 7 values."""
    within = (channel // ALIGN * ALIGN) % HEAD
    row, column = place_on_grid(token, total, image_tokens, height, width)
    offset, moves, sees, seen = neighbour(row, column, within, height, width, shift, END_1, END_2, END_3, END_4)
    return row, column, within, offset, moves, sees, seen


@triton.jit
def load_standardised(x, statistics, token, channel, total, valid, CHANNELS: tl.constexpr, NORMED: tl.constexpr):
    """x standardised, as it is without a norm: float32 (t, c), the scale by which it was standardised (t, 1)."""
    own = tl.load(x + token.to(tl.int64)[:, None] * CHANNELS + channel, valid, other=0.0).to(tl.float32)
    scale = 1.0
    if NORMED:
        exists = (token < total)[:, None]
        place = statistics + token[:, None]
        rows = tl.cast(total, tl.int64)
        own -= tl.load(place, exists, other=0.0)
        own -= tl.load(place + rows, exists, other=0.0)
        scale = tl.load(place + 2 * rows, exists, other=0.0)
        own *= scale
    return own, scale


@triton.jit
def difference_from_neighbour(
    x, statistics, weight, bias, z, token, channel, total, height, width, shift, around, valid,
    CHANNELS: tl.constexpr, END_1: tl.constexpr, END_2: tl.constexpr, END_3: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    """What the neighbour has more than z: float32 (t, c), 0 where nothing moves; `around` comes from `look_around`."""
    row, column, within, offset, moves, sees, _seen = around
    sees = sees & valid
    other = tl.load(x + (token.to(tl.int64)[:, None] + offset) * CHANNELS + channel, sees, other=0.0).to(tl.float32)
    if NORMED:
        rest = statistics + tl.cast(total, tl.int64)
        scale = rest + total
        other -= value_of_neighbour(statistics, token, row, column, within, height, width, shift, END_1, END_2, END_3)
        other -= value_of_neighbour(rest, token, row, column, within, height, width, shift, END_1, END_2, END_3)
        other *= value_of_neighbour(scale, token, row, column, within, height, width, shift, END_1, END_2, END_3)
        other = tl.where(sees, other * weight + bias, 0.0)
    return tl.where(moves, other - z, 0.0)
