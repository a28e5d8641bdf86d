# mypy: ignore-errors
"""States that are right for any decay, bonus and key: the scale of the sums moves with every token.

A state is (scale, first, second): the sums 2^scale · (first, second) of weighted tokens, (values, 1) of sources or
(g / D, g y / D) of targets. Weights and decays are logarithms to base 2. Scales are float64: they grow with the image,
and powers of them are taken. A step takes two powers, so that these states are left to the channels for which plain
sums are wrong.
"""

import triton
import triton.language as tl

from vrwkv.ops.bi_wkv.triton_exchange import NOTHING
from vrwkv.ops.triton_arithmetic import LOG2_E


@triton.jit
def empty_state(like):
    """The sum of no tokens."""
    nothing = like.to(tl.float32) * 0.0
    return (nothing + NOTHING).to(tl.float64), nothing, nothing


@triton.jit
def power(exponent):
    """2^exponent in float32."""
    return tl.exp2(exponent.to(tl.float32))


@triton.jit
def passed(state, decay, weight, first, second):
    """The state one token further on, with that token."""
    faded = state[0] - decay
    common = tl.maximum(faded, weight)
    keep, gain = power(faded - common), power(weight - common)
    return common, keep * state[1] + gain * first, keep * state[2] + gain * second


@triton.jit
def states_before(state, decay, weights, firsts, seconds, COUNT: tl.constexpr):
    """The states before each of COUNT tokens in reading order, and the state after them."""
    states = ()
    for row in tl.static_range(COUNT):
        states = states + (state,)  # noqa: RUF005
        state = passed(state, decay, weights[row], firsts[row], seconds[row])
    return states, state


@triton.jit
def states_after(state, decay, weights, firsts, seconds, COUNT: tl.constexpr):
    """The states after each of COUNT tokens, given that after the last, and the state before them all."""
    states = ()
    for row in tl.static_range(COUNT - 1, -1, -1):
        states = (state,) + states  # noqa: RUF005
        state = passed(state, decay, weights[row], firsts[row], seconds[row])
    return states, state


@triton.jit
def mean(before, after, key, value, bonus, valid):
    """Mean of the values around and at a token; -log of its denominator, as a weight; the token's share of its mean."""
    own_scale = key + bonus
    scale = tl.maximum(tl.maximum(before[0], after[0]), own_scale)
    past, future, own = power(before[0] - scale), power(after[0] - scale), power(own_scale - scale)
    denominator = past * before[2] + future * after[2] + own
    numerator = past * before[1] + future * after[1] + own * value
    weight = tl.where(valid, -scale - tl.log2(denominator), NOTHING)
    return numerator / denominator, weight, tl.where(valid, own / denominator, 0.0)


@triton.jit
def weighed(state, weight):
    """Both sums of a state, multiplied by a weight."""
    factor = power(weight + state[0])
    return factor * state[1], factor * state[2]


@triton.jit
def crossing(state, adjoint, decay):
    """What passes from sources on one side of a token to targets on its other side."""
    return power(state[0] + adjoint[0] - decay) * (state[1] * adjoint[1] - state[2] * adjoint[2])


@triton.jit
def keep_state(borders, index, lanes, state):
    """Put a state aside in `borders` (…, 4, lanes) float32, its scale in two parts."""
    place = borders + 4 * index * lanes
    coarse = state[0].to(tl.float32)
    tl.store(place, coarse)
    tl.store(place + lanes, (state[0] - coarse).to(tl.float32))
    tl.store(place + 2 * lanes, state[1])
    tl.store(place + 3 * lanes, state[2])


@triton.jit
def kept_state(borders, index, lanes):
    """What `keep_state` put aside; between the two stands a barrier, since threads may hold other lanes."""
    place = borders + 4 * index * lanes
    scale = tl.load(place).to(tl.float64) + tl.load(place + lanes)
    return scale, tl.load(place + 2 * lanes), tl.load(place + 3 * lanes)


@triton.jit
def load_tokens(pointer, first, left, channels, COUNT: tl.constexpr):
    """COUNT tokens from token `first` of an image, a float32 row each, 0 from a lane's token `left` on."""
    rows = ()
    for row in tl.static_range(COUNT):
        row_values = tl.load(pointer + (first + row) * channels, mask=first + row < left, other=0.0)
        rows = rows + (row_values.to(tl.float32),)  # noqa: RUF005
    return rows


@triton.jit
def load_weights(k, first, left, channels, peak, COUNT: tl.constexpr):
    """COUNT keys less `peak` as logarithms to base 2, far below anything from a lane's token `left` on."""
    rows = load_tokens(k, first, left, channels, COUNT)
    weights = ()
    for row in tl.static_range(COUNT):
        weights = weights + (tl.where(first + row < left, (rows[row] - peak) * LOG2_E, NOTHING),)  # noqa: RUF005
    return weights


@triton.jit
def ones(like, COUNT: tl.constexpr):
    """What every token adds to a denominator."""
    rows = ()
    for row in tl.static_range(COUNT):  # noqa: B007
        rows = rows + (like.to(tl.float32) * 0.0 + 1.0,)  # noqa: RUF005
    return rows
