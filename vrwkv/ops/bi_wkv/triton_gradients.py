# mypy: ignore-errors
"""Gradients of Bi-WKV in k, v, decay and bonus: states and adjoint states of both directions meet at each token.

With e the weight of token i at the adjoint scale S, A the adjoint sums from both sides, and own the token's share of
its own mean: grad v = e A1 + own g and grad k = e (v A1 - A2) + own g (v - y); the bonus gets the last term summed. The
decay gets, at each token m, what crosses it: states before m times adjoint states after m, and the reverse.
"""

import triton
import triton.language as tl

from vrwkv.ops.bi_wkv.triton_lanes import (
    as_weights,
    load_gradients,
    load_keys,
    load_values,
    locate,
    ones,
    per_token_parameters,
    walking_parameter,
)
from vrwkv.ops.bi_wkv.triton_outputs import inherited, keep_states_after_blocks
from vrwkv.ops.bi_wkv.triton_states import NOTHING, add, fade, keep_state, kept_state, load_state, mean, walk, walk_back


@triton.jit
def inherited_adjoint(peaks, scales, pairs, lane, lanes, present, growth, reference, STEEP: tl.constexpr):
    """R + S for the chunk's scale R = `reference` and its adjoint scale S, and the adjoint states before and after."""
    wide = reference.to(tl.float64)
    own = tl.load(peaks + lane, mask=present, other=0.0).to(tl.float64) - wide
    before = tl.load(scales + lane, mask=present, other=NOTHING)
    after = tl.load(scales + lanes + lane, mask=present, other=NOTHING)
    shift = (tl.maximum(own, tl.maximum(before, after) + growth) + wide).to(tl.float32)
    adjoint = shift.to(tl.float64) - wide
    past = load_state(scales, pairs, pairs + lanes, lane, present, adjoint, STEEP)
    future = load_state(scales + lanes, pairs + 2 * lanes, pairs + 3 * lanes, lane, present, adjoint, STEEP)
    return shift, past, future


@triton.jit
def adjoint_rows(
    past, future, weights, values, gradients, bonus, shift, left, start, COUNT: tl.constexpr,
    STEEP: tl.constexpr,
):  # fmt: skip
    """Per token of a block: mean y, own share, weight 1 / D at the adjoint scale, and g y."""
    outputs, shares, inverses, moments = (), (), (), ()
    factor = shift if STEEP else tl.exp(-shift)
    for token in tl.static_range(COUNT):
        valid = start + token < left
        output, inverse, share = mean(past[token], future[token], weights[token], values[token], bonus, valid, STEEP)
        outputs = outputs + (output,)  # noqa: RUF005
        shares = shares + (share,)  # noqa: RUF005
        inverses = inverses + (inverse - factor if STEEP else inverse * factor,)  # noqa: RUF005
        moments = moments + (tl.where(valid, gradients[token] * output, 0.0),)  # noqa: RUF005
    return outputs, shares, inverses, moments


@triton.jit
def keep_states_before_blocks(
    grad, k, v, gate, before, adjoint_before, borders, offset, channels, left, reference, value_reference, shift, lane,
    lanes, decay, bonus, LENGTH: tl.constexpr, BLOCK: tl.constexpr, GATED: tl.constexpr, STEEP: tl.constexpr,
):  # fmt: skip
    """Put aside the state and the adjoint state before each block of a chunk, behind those after the blocks."""
    present = left > 0
    BLOCKS: tl.constexpr = LENGTH // BLOCK
    for block in range(0, BLOCKS):
        keep_state(borders, lane, lanes, BLOCKS + block, present, before, STEEP)
        keep_state(borders, lane, lanes, 2 * BLOCKS + block, present, adjoint_before, STEEP)
        weights = as_weights(load_keys(k, offset, channels, left, reference, block * BLOCK, BLOCK), BLOCK, STEEP)
        values = load_values(v, offset, channels, left, value_reference, block * BLOCK, BLOCK)
        gradients, _ = load_gradients(grad, gate, offset, channels, left, block * BLOCK, BLOCK, GATED)
        after = kept_state(borders, lane, lanes, block, present, STEEP)
        future, _ = walk_back(after, weights, values, ones(lane, BLOCK), decay, BLOCK, STEEP)
        past, before = walk(before, weights, values, ones(lane, BLOCK), decay, BLOCK, STEEP)
        _, _, inverses, moments = adjoint_rows(
            past, future, weights, values, gradients, bonus, shift, left, block * BLOCK, BLOCK, STEEP
        )
        _, adjoint_before = walk(adjoint_before, inverses, gradients, moments, decay, BLOCK, STEEP)
    tl.debug_barrier()


@triton.jit
def weighed(state, weight, STEEP: tl.constexpr):
    """Both sums of a state, multiplied by a weight."""
    factor = tl.exp(weight + state[0]) if STEEP else weight
    return factor * state[1], factor * state[2]


@triton.jit
def crossing(state, adjoint, weight, STEEP: tl.constexpr):
    """What passes from sources on one side of a token to targets on its other side, weighed by a step of decay."""
    total = state[1] * adjoint[1] - state[2] * adjoint[2]
    return tl.exp(weight + state[0] + adjoint[0]) * total if STEEP else total


@triton.jit
def _write_gradients(
    grad, k, v, gate, grad_k, grad_v, partials, borders, peaks, scales, pairs,
    adjoint_peaks, adjoint_scales, adjoint_pairs,
    w, u, growth, lane, lanes, offset, channels, left, image_tokens, value_reference,
    LENGTH: tl.constexpr, BLOCK: tl.constexpr, GATED: tl.constexpr, STEEP: tl.constexpr,
):  # fmt: skip
    present = left > 0
    reference, before, after = inherited(peaks, scales, pairs, lane, lanes, present, growth, STEEP)
    shift, adjoint_before, adjoint_after = inherited_adjoint(
        adjoint_peaks, adjoint_scales, adjoint_pairs, lane, lanes, present, growth, reference, STEEP
    )
    decay, bonus = walking_parameter(-w if not STEEP else w, STEEP), walking_parameter(u, STEEP)
    step = shift - decay  # the logarithm of a crossing's weight, where sums carry logarithms
    keep_states_after_blocks(
        after, k, v, borders, offset, channels, left, reference, value_reference, lane, lanes, decay,
        LENGTH, BLOCK, STEEP,
    )  # fmt: skip
    keep_states_before_blocks(
        grad, k, v, gate, before, adjoint_before, borders, offset, channels, left, reference, value_reference, shift,
        lane, lanes, decay, bonus, LENGTH, BLOCK, GATED, STEEP,
    )  # fmt: skip
    BLOCKS: tl.constexpr = LENGTH // BLOCK
    decay_sum, bonus_sum = tl.zeros_like(decay), tl.zeros_like(decay)
    for back in range(0, BLOCKS):
        block = BLOCKS - 1 - back
        keys = load_keys(k, offset, channels, left, reference, block * BLOCK, BLOCK)
        weights = as_weights(keys, BLOCK, STEEP)
        values = load_values(v, offset, channels, left, value_reference, block * BLOCK, BLOCK)
        gradients, _ = load_gradients(grad, gate, offset, channels, left, block * BLOCK, BLOCK, GATED)
        future, _ = walk_back(
            kept_state(borders, lane, lanes, block, present, STEEP),
            weights,
            values,
            ones(lane, BLOCK),
            decay,
            BLOCK,
            STEEP,
        )
        past, _ = walk(
            kept_state(borders, lane, lanes, BLOCKS + block, present, STEEP),
            weights,
            values,
            ones(lane, BLOCK),
            decay,
            BLOCK,
            STEEP,
        )
        outputs, shares, inverses, moments = adjoint_rows(
            past, future, weights, values, gradients, bonus, shift, left, block * BLOCK, BLOCK, STEEP
        )
        adjoint_border = kept_state(borders, lane, lanes, 2 * BLOCKS + block, present, STEEP)
        adjoint_past, _ = walk(adjoint_border, inverses, gradients, moments, decay, BLOCK, STEEP)
        for token in tl.static_range(BLOCK - 1, -1, -1):
            valid = block * BLOCK + token < left
            g, x = gradients[token], values[token]
            # e at the adjoint scale, from its own logarithm: at R alone it may be 0 where at R + S it is not.
            source = keys[token] + shift if STEEP else tl.exp(keys[token] + shift)
            past_mass, past_moment = weighed(adjoint_past[token], source, STEEP)
            future_mass, future_moment = weighed(adjoint_after, source, STEEP)
            mass, own = past_mass + future_mass, shares[token] * g
            own_moment = own * (x - outputs[token])
            place = offset + (block * BLOCK + token) * channels
            tl.store(grad_v + place, mass + own, mask=valid)
            tl.store(grad_k + place, x * mass - (past_moment + future_moment) + own_moment, mask=valid)
            bonus_sum += tl.where(valid, own_moment, 0.0)
            crossed = crossing(past[token], adjoint_after, step, STEEP)
            crossed += crossing(future[token], adjoint_past[token], step, STEEP)
            decay_sum += tl.where(valid, crossed, 0.0)
            adjoint_after = add(fade(adjoint_after, decay, STEEP), inverses[token], g, moments[token], STEEP)
    if not STEEP:
        decay_sum *= decay * tl.exp(shift)
    count = tl.maximum(image_tokens, 1).to(tl.float32)
    tl.store(partials + lane, tl.where(present, -decay_sum / count, 0.0), mask=lane < lanes)
    tl.store(partials + lanes + lane, tl.where(present, bonus_sum / count, 0.0), mask=lane < lanes)


@triton.jit
def write_gradients_kernel(
    grad, k, v, gate, grad_k, grad_v, partials, borders, decay, bonus, table, peaks, scales, pairs,
    adjoint_peaks, adjoint_scales, adjoint_pairs, lanes, tokens, channels,
    LENGTH: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr, PACKED: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """Gradients in k and v, and each chunk's part of those in decay and bonus: `partials` (2, chunks, C) float32."""
    lane, channel, first, left, image_first, image_tokens = locate(
        table, lanes, tokens, channels, LENGTH, LANES, PACKED
    )
    w, u, growth, steep = per_token_parameters(decay, bonus, channel, image_tokens, LENGTH, True)
    offset = first * channels + channel
    value_reference = tl.load(v + image_first * channels + channel, mask=left > 0, other=0.0).to(tl.float32)
    if steep:
        _write_gradients(
            grad, k, v, gate, grad_k, grad_v, partials, borders, peaks, scales, pairs,
            adjoint_peaks, adjoint_scales, adjoint_pairs, w, u, growth, lane, lanes, offset, channels, left,
            image_tokens, value_reference, LENGTH, BLOCK, GATED, True,
        )  # fmt: skip
    else:
        _write_gradients(
            grad, k, v, gate, grad_k, grad_v, partials, borders, peaks, scales, pairs,
            adjoint_peaks, adjoint_scales, adjoint_pairs, w, u, growth, lane, lanes, offset, channels, left,
            image_tokens, value_reference, LENGTH, BLOCK, GATED, False,
        )  # fmt: skip
