# mypy: ignore-errors
"""A chunk of Bi-WKV in a lane's registers: its tokens, what it hands on, and the states between its blocks.

A state is a pair of sums over weighted tokens, of values and of weights, at a scale that is known from elsewhere.
Inside a chunk a step is one multiply-add for each.
"""

import triton
import triton.language as tl

from vrwkv.ops.bi_wkv.triton_channels import load_raw, unpack
from vrwkv.ops.bi_wkv.triton_exchange import NOTHING
from vrwkv.ops.triton_arithmetic import LOG2_E, exp2


@triton.jit
def load_rows(pointer, offset, step, left, KEYS: tl.constexpr, LENGTH: tl.constexpr, WIDTH: tl.constexpr):
    """All tokens of a chunk, raw; those from `left` on do not exist."""
    rows = ()
    for row in tl.static_range(LENGTH):
        rows = rows + (load_raw(pointer, offset + row * step, row < left, KEYS, WIDTH),)  # noqa: RUF005
    return rows


@triton.jit
def load_block(
    pointer, offset, step, left, block, LENGTH: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Tokens of the block that begins at token `block` of a chunk, raw; nothing if there is no such block.

    Stores are not moved behind loads: what a block needs is best loaded before the block before it writes.
    """
    rows = ()
    if block < LENGTH:
        for row in tl.static_range(BLOCK):
            rows = rows + (load_raw(pointer, offset + (block + row) * step, block + row < left, False, WIDTH),)  # noqa: RUF005
    return rows


@triton.jit
def weight_of(raw, k, scale, WIDTH: tl.constexpr):
    """e^(key - scale): subtracted first, since keys of 1e4 times anything leave few digits behind the point."""
    return exp2((unpack(raw, k, True, WIDTH) - scale) * LOG2_E)


@triton.jit
def faded(own, factor, inherited, power):
    """A state of the chunk alone at another scale, and what reaches it from outside over a distance."""
    return tl.fma(own[0], factor, inherited[0] * power), tl.fma(own[1], factor, inherited[1] * power)


@triton.jit
def summarise(
    keys, values, k, v, fade, nothing, LENGTH: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    FORWARDS: tl.constexpr,
):  # fmt: skip
    """Sums of a chunk's tokens as seen from both of its ends, in one walk from first to last or from last to first.

    The scale is the largest key so far, renewed with each block.

    Returns:
        The scale; the sums at the end of the walk; those at its start; and the state before each block was walked
        through, in the order of tokens.
    """
    scale = nothing + NOTHING
    first, second = nothing, nothing
    start_first, start_second = nothing, nothing
    power = nothing + 1.0
    states = ()
    for walked in tl.static_range(0, LENGTH, BLOCK):
        own = ()
        largest = scale
        for step in tl.static_range(walked, walked + BLOCK):
            key = unpack(keys[step if FORWARDS else LENGTH - 1 - step], k, False, WIDTH)
            own = own + (key,)  # noqa: RUF005
            largest = tl.maximum(largest, key)
        factor = exp2((scale - largest) * LOG2_E)
        scale = largest
        first *= factor
        second *= factor
        start_first *= factor
        start_second *= factor
        rescaled = ()
        for state in tl.static_range(walked // BLOCK):
            rescaled = rescaled + ((states[state][0] * factor, states[state][1] * factor),)  # noqa: RUF005
        states = rescaled + ((first, second),) if FORWARDS else ((first, second),) + rescaled  # noqa: RUF005
        for step in tl.static_range(BLOCK):
            weight = exp2((own[step] - scale) * LOG2_E)
            weighted = weight * unpack(
                values[walked + step if FORWARDS else LENGTH - 1 - walked - step], v, False, WIDTH
            )
            start_first += power * weighted
            start_second += power * weight
            power *= fade
            first = tl.fma(fade, first, weighted)
            second = tl.fma(fade, second, weight)
    return scale, first, second, start_first, start_second, states
