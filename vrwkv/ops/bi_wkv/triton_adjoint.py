# mypy: ignore-errors
"""Adjoint sums of Bi-WKV: what each chunk of targets hands to the sources outside it, and the gradient of the gate.

The adjoint scan has keys -log D and values (g, g y), with g the gradient in the ungated mean y and D its denominator.
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
from vrwkv.ops.bi_wkv.triton_states import NOTHING, add, empty_state, fade, far, kept_state, mean, walk, walk_back
from vrwkv.ops.bi_wkv.triton_summaries import store_summary


@triton.jit
def _summarise_adjoint(
    grad, k, v, gate, grad_gate, borders, peaks, scales, pairs, adjoint_peaks, adjoint_scales, adjoint_pairs,
    w, u, growth, lane, lanes, offset, channels, left, value_reference,
    LENGTH: tl.constexpr, BLOCK: tl.constexpr, GATED: tl.constexpr, STEEP: tl.constexpr,
):  # fmt: skip
    present = left > 0
    reference, before, after = inherited(peaks, scales, pairs, lane, lanes, present, growth, STEEP)
    decay, bonus = walking_parameter(-w if not STEEP else w, STEEP), walking_parameter(u, STEEP)
    keep_states_after_blocks(
        after, k, v, borders, offset, channels, left, reference, value_reference, lane, lanes, decay,
        LENGTH, BLOCK, STEEP,
    )  # fmt: skip
    to_end, to_start = empty_state(lane, STEEP), empty_state(lane, STEEP)
    reach = tl.zeros_like(decay) + (0.0 if STEEP else 1.0)
    largest = tl.zeros_like(decay) + (NOTHING if STEEP else 0.0)
    for block in range(0, LENGTH // BLOCK):
        weights = as_weights(load_keys(k, offset, channels, left, reference, block * BLOCK, BLOCK), BLOCK, STEEP)
        values = load_values(v, offset, channels, left, value_reference, block * BLOCK, BLOCK)
        gradients, openings = load_gradients(grad, gate, offset, channels, left, block * BLOCK, BLOCK, GATED)
        future, _ = walk_back(
            kept_state(borders, lane, lanes, block, present, STEEP),
            weights,
            values,
            ones(lane, BLOCK),
            decay,
            BLOCK,
            STEEP,
        )
        past, before = walk(before, weights, values, ones(lane, BLOCK), decay, BLOCK, STEEP)
        for token in tl.static_range(BLOCK):
            valid = block * BLOCK + token < left
            g = gradients[token]
            output, inverse, _ = mean(past[token], future[token], weights[token], values[token], bonus, valid, STEEP)
            if GATED:
                closing = g * (output + value_reference) * (1.0 - openings[token])
                tl.store(grad_gate + offset + (block * BLOCK + token) * channels, closing, mask=valid)
            moment = tl.where(valid, g * output, 0.0)
            largest = tl.maximum(largest, inverse)
            to_end = add(fade(to_end, decay, STEEP), inverse, g, moment, STEEP)
            to_start = add(to_start, far(inverse, reach, STEEP), g, moment, STEEP)
            reach = reach + decay if STEEP else reach * decay
    if not STEEP:
        # Weights relative to the largest of the chunk, so that the stored scale says how large they are.
        ratio = 1.0 / tl.where(largest > 0, largest, 1.0)
        to_end = (to_end[0] - tl.log(ratio), to_end[1] * ratio, to_end[2] * ratio)
        to_start = (to_start[0] - tl.log(ratio), to_start[1] * ratio, to_start[2] * ratio)
        largest = -tl.log(ratio)
    tl.store(adjoint_peaks + lane, largest, mask=present)
    scale = -reference.to(tl.float64)
    store_summary(adjoint_scales, adjoint_pairs, lane, lanes, present, scale, to_end)
    store_summary(adjoint_scales + lanes, adjoint_pairs + 2 * lanes, lane, lanes, present, scale, to_start)


@triton.jit
def summarise_adjoint_kernel(
    grad, k, v, gate, grad_gate, borders, decay, bonus, table, peaks, scales, pairs,
    adjoint_peaks, adjoint_scales, adjoint_pairs, lanes, tokens, channels,
    LENGTH: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr, PACKED: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """Largest 1/D of each chunk (its logarithm at the chunk's scale R), and the adjoint sums right after and before."""
    lane, channel, first, left, image_first, image_tokens = locate(
        table, lanes, tokens, channels, LENGTH, LANES, PACKED
    )
    w, u, growth, steep = per_token_parameters(decay, bonus, channel, image_tokens, LENGTH)
    offset = first * channels + channel
    value_reference = tl.load(v + image_first * channels + channel, mask=left > 0, other=0.0).to(tl.float32)
    if steep:
        _summarise_adjoint(
            grad, k, v, gate, grad_gate, borders, peaks, scales, pairs, adjoint_peaks, adjoint_scales, adjoint_pairs,
            w, u, growth, lane, lanes, offset, channels, left, value_reference, LENGTH, BLOCK, GATED, True,
        )  # fmt: skip
    else:
        _summarise_adjoint(
            grad, k, v, gate, grad_gate, borders, peaks, scales, pairs, adjoint_peaks, adjoint_scales, adjoint_pairs,
            w, u, growth, lane, lanes, offset, channels, left, value_reference, LENGTH, BLOCK, GATED, False,
        )  # fmt: skip
