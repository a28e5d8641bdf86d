"""What the Triton kernels of shift-and-mix share: where an element's neighbour is, and how much more it holds.

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
def element_and_difference(
    x,
    statistics,
    weight,
    bias,
    token,
    channel,
    total,
    image_tokens,
    height,
    width,
    shift,
    valid,
    CHANNELS: tl.constexpr,
    HEAD: tl.constexpr,
    END_1: tl.constexpr,
    END_2: tl.constexpr,
    END_3: tl.constexpr,
    END_4: tl.constexpr,
    ALIGN: tl.constexpr,
    NORMED: tl.constexpr,
):
    """Elements, as they are and normalised, and what the neighbour has more; how elements are moved.

    Returns:
        x standardised (as it is without a norm), z, the neighbour's z less z: float32 (t, c), 0 where nothing moves;
        offset (1, c), moves and seen (t, c) as `neighbour` has them.
    """
    within = (channel // ALIGN * ALIGN) % HEAD
    row, column = place_on_grid(token, total, image_tokens, height, width)
    offset, moves, sees, seen = neighbour(row, column, within, height, width, shift, END_1, END_2, END_3, END_4)
    tokens = token.to(tl.int64)[:, None]
    sees = sees & valid
    own = tl.load(x + tokens * CHANNELS + channel, valid, other=0.0).to(tl.float32)
    other = tl.load(x + (tokens + offset) * CHANNELS + channel, sees, other=0.0).to(tl.float32)
    if NORMED:
        rest = statistics + tl.cast(total, tl.int64)
        scale = rest + total
        own -= tl.load(statistics + token, token < total, other=0.0)[:, None]
        own -= tl.load(rest + token, token < total, other=0.0)[:, None]
        own *= tl.load(scale + token, token < total, other=0.0)[:, None]
        other -= value_of_neighbour(statistics, token, row, column, within, height, width, shift, END_1, END_2, END_3)
        other -= value_of_neighbour(rest, token, row, column, within, height, width, shift, END_1, END_2, END_3)
        other *= value_of_neighbour(scale, token, row, column, within, height, width, shift, END_1, END_2, END_3)
        z = own * weight + bias
        other = tl.where(sees, other * weight + bias, 0.0)
    else:
        z = own
    return own, z, tl.where(moves, other - z, 0.0), offset, moves, seen
