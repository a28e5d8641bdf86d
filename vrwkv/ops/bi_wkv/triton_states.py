# mypy: ignore-errors
"""State algebra of Bi-WKV's Triton kernels: what a token adds to a state, and what a walk over tokens leaves.

A state is (scale, first, second): the sums e^scale · (first, second) of weighted tokens. The first pair is (values, 1),
the adjoint pair (g / D, g y / D). Two arithmetics share the code. With STEEP false the scale stays 0, a weight is a
number of at most 1 and a decay a factor: one multiply-add for each sum. That holds as long as no weight inside a chunk
falls below e^-FLAT_LIMIT. With STEEP true, weight and decay are logarithms and the scale follows the largest term, at
an exp or two a token: right for any decay, bonus and key. A program decides by its own channels on the device, without
a synchronisation; trained models stay on the first side.
"""

import triton
import triton.language as tl

NOTHING = tl.constexpr(-1e30)  # scale of an empty sum: finite, so that the difference of two of them is 0 and not NaN
FLAT_LIMIT = tl.constexpr(32.0)  # e^-32 twice over is far from float32's smallest number, e^-87
FLAT_GROWTH = tl.constexpr(24.0)  # over an image, where products of states count; with twice a chunk's, below e^88


@triton.jit
def empty_state(lane, STEEP: tl.constexpr):
    """The sum of no tokens, for every lane."""
    zero = tl.zeros_like(lane).to(tl.float32)
    return (zero + NOTHING if STEEP else zero), zero, zero


@triton.jit
def add(state, weight, first, second, STEEP: tl.constexpr):
    """The state with one more token."""
    scale, old_first, old_second = state
    if STEEP:
        common = tl.maximum(scale, weight)
        keep, weight = tl.exp(scale - common), tl.exp(weight - common)
        return common, keep * old_first + weight * first, keep * old_second + weight * second
    else:
        return scale, tl.fma(weight, first, old_first), tl.fma(weight, second, old_second)


@triton.jit
def fade(state, decay, STEEP: tl.constexpr):
    """The state one token further away."""
    scale, first, second = state
    if STEEP:
        return scale - decay, first, second
    else:
        return scale, decay * first, decay * second


@triton.jit
def far(weight, distance, STEEP: tl.constexpr):
    """The weight of a token that is `distance` (a factor, or -log of it) away."""
    if STEEP:
        return weight - distance
    else:
        return weight * distance


@triton.jit
def walk(state, weights, firsts, seconds, decay, COUNT: tl.constexpr, STEEP: tl.constexpr):
    """Causal chunk: the states before each of COUNT tokens, and the state that the chunk hands on."""
    before = ()
    for token in tl.static_range(COUNT):
        before = before + (state,)  # noqa: RUF005
        scale, first, second = state
        # Written out, as in `add` and `fade`: the interpreter spends longer on a call than on all that it does.
        if STEEP:
            common = tl.maximum(scale - decay, weights[token])
            keep, gain = tl.exp(scale - decay - common), tl.exp(weights[token] - common)
            state = (common, keep * first + gain * firsts[token], keep * second + gain * seconds[token])
        else:
            state = (
                scale,
                tl.fma(weights[token], firsts[token], decay * first),
                tl.fma(weights[token], seconds[token], decay * second),
            )
    return before, state


@triton.jit
def walk_back(state, weights, firsts, seconds, decay, COUNT: tl.constexpr, STEEP: tl.constexpr):
    """The same causal chunk over the flipped tokens: the states after each, and the state before all of them."""
    flipped_weights, flipped_firsts, flipped_seconds = (), (), ()
    for token in tl.static_range(COUNT - 1, -1, -1):
        flipped_weights = flipped_weights + (weights[token],)  # noqa: RUF005
        flipped_firsts = flipped_firsts + (firsts[token],)  # noqa: RUF005
        flipped_seconds = flipped_seconds + (seconds[token],)  # noqa: RUF005
    flipped, state = walk(state, flipped_weights, flipped_firsts, flipped_seconds, decay, COUNT, STEEP)
    after = ()
    for token in tl.static_range(COUNT - 1, -1, -1):
        after = after + (flipped[token],)  # noqa: RUF005
    return after, state


@triton.jit
def mean(before, after, key, value, bonus, valid, STEEP: tl.constexpr):
    """Mean of the values around and at a token; its denominator's inverse; the token's own share of it.

    The inverse is a weight for the adjoint sums: -log D with STEEP, else 1 / D, and nothing where the token is padding.
    """
    if STEEP:
        own_scale = key + bonus
        scale = tl.maximum(tl.maximum(before[0], after[0]), own_scale)
        past, future, own = tl.exp(before[0] - scale), tl.exp(after[0] - scale), tl.exp(own_scale - scale)
        denominator = past * before[2] + future * after[2] + own
        numerator = past * before[1] + future * after[1] + own * value
        inverse = tl.where(valid, -scale - tl.log(denominator), NOTHING)
        return numerator / denominator, inverse, tl.where(valid, own / denominator, 0.0)
    else:
        own = key * bonus
        denominator = tl.where(valid, before[2] + after[2] + own, 1.0)
        numerator = tl.fma(own, value, before[1] + after[1])
        inverse = 1.0 / denominator
        return numerator / denominator, tl.where(valid, inverse, 0.0), own * inverse


@triton.jit
def load_state(scales, firsts, seconds, offset, present, reference, STEEP: tl.constexpr):
    """A stored state as a walk takes it, at scale `reference`."""
    scale = (tl.load(scales + offset, mask=present, other=NOTHING) - reference).to(tl.float32)
    first = tl.load(firsts + offset, mask=present, other=0.0)
    second = tl.load(seconds + offset, mask=present, other=0.0)
    if STEEP:
        return tl.maximum(scale, NOTHING), first, second
    else:
        factor = tl.exp(scale)
        return tl.zeros_like(first), factor * first, factor * second


@triton.jit
def keep_state(borders, lane, lanes, index, present, state, STEEP: tl.constexpr):
    """Put a state aside in the program's own part of `borders` (…, 3, chunks, C) float32."""
    place = borders + 3 * index * lanes + lane
    if STEEP:
        tl.store(place, state[0], mask=present)
    tl.store(place + lanes, state[1], mask=present)
    tl.store(place + 2 * lanes, state[2], mask=present)


@triton.jit
def kept_state(borders, lane, lanes, index, present, STEEP: tl.constexpr):
    """What `keep_state` put aside; between the two stands a barrier, since threads may hold other lanes."""
    place = borders + 3 * index * lanes + lane
    first = tl.load(place + lanes, mask=present, other=0.0)
    second = tl.load(place + 2 * lanes, mask=present, other=0.0)
    return (tl.load(place, mask=present, other=0.0) if STEEP else tl.zeros_like(first)), first, second
