# mypy: ignore-errors
"""Outputs of Bi-WKV: each chunk of tokens walked from both sides, starting from the states that reach it.

A walk keeps BLOCK tokens at a time in registers. A chunk is LENGTH / BLOCK such blocks; the states after each of them
are found first, by walking back once, and put aside in a scratch buffer, `borders`. The loop over blocks stays a loop:
Triton's layout passes take minutes for a chunk written out.
"""

import triton
import triton.language as tl

from vrwkv.ops.bi_wkv.triton_lanes import (
    as_weights,
    load_keys,
    load_rows,
    load_values,
    locate,
    ones,
    per_token_parameters,
    walking_parameter,
)
from vrwkv.ops.bi_wkv.triton_states import keep_state, kept_state, load_state, mean, walk, walk_back


@triton.jit
def inherited(peaks, scales, pairs, lane, lanes, present, growth, STEEP: tl.constexpr):
    """The chunk's scale R, at which no weight inside it exceeds 1, and the states before and after the chunk at R."""
    peak = tl.load(peaks + lane, mask=present, other=0.0)
    before = tl.load(scales + lane, mask=present, other=-1e30)
    after = tl.load(scales + lanes + lane, mask=present, other=-1e30)
    largest = tl.maximum(peak.to(tl.float64), tl.maximum(before, after) + growth)
    # Rounded to float32 first: keys, states and the adjoint sums must all be relative to the very same number.
    reference = largest.to(tl.float32)
    wide = reference.to(tl.float64)
    past = load_state(scales, pairs, pairs + lanes, lane, present, wide, STEEP)
    future = load_state(scales + lanes, pairs + 2 * lanes, pairs + 3 * lanes, lane, present, wide, STEEP)
    return reference, past, future


@triton.jit
def keep_states_after_blocks(
    state, k, v, borders, offset, channels, left, reference, value_reference, lane, lanes, decay,
    LENGTH: tl.constexpr, BLOCK: tl.constexpr, STEEP: tl.constexpr,
):  # fmt: skip
    """Put aside the state after each block of a chunk, given the state after the chunk."""
    BLOCKS: tl.constexpr = LENGTH // BLOCK
    for back in range(0, BLOCKS):
        block = BLOCKS - 1 - back
        keep_state(borders, lane, lanes, block, left > 0, state, STEEP)
        weights = as_weights(load_keys(k, offset, channels, left, reference, block * BLOCK, BLOCK), BLOCK, STEEP)
        values = load_values(v, offset, channels, left, value_reference, block * BLOCK, BLOCK)
        _, state = walk_back(state, weights, values, ones(lane, BLOCK), decay, BLOCK, STEEP)
    tl.debug_barrier()


@triton.jit
def _write_outputs(
    k, v, gate, y, borders, peaks, scales, pairs, w, u, growth, lane, lanes, offset, channels, left, value_reference,
    LENGTH: tl.constexpr, BLOCK: tl.constexpr, GATED: tl.constexpr, STEEP: tl.constexpr,
):  # fmt: skip
    reference, before, after = inherited(peaks, scales, pairs, lane, lanes, left > 0, growth, STEEP)
    decay, bonus = walking_parameter(-w if not STEEP else w, STEEP), walking_parameter(u, STEEP)
    keep_states_after_blocks(
        after, k, v, borders, offset, channels, left, reference, value_reference, lane, lanes, decay,
        LENGTH, BLOCK, STEEP,
    )  # fmt: skip
    for block in range(0, LENGTH // BLOCK):
        weights = as_weights(load_keys(k, offset, channels, left, reference, block * BLOCK, BLOCK), BLOCK, STEEP)
        values = load_values(v, offset, channels, left, value_reference, block * BLOCK, BLOCK)
        after = kept_state(borders, lane, lanes, block, left > 0, STEEP)
        openings = weights
        if GATED:
            openings = load_rows(gate, offset, channels, left, block * BLOCK, BLOCK)
        future, _ = walk_back(after, weights, values, ones(lane, BLOCK), decay, BLOCK, STEEP)
        past, before = walk(before, weights, values, ones(lane, BLOCK), decay, BLOCK, STEEP)
        for token in tl.static_range(BLOCK):
            valid = block * BLOCK + token < left
            output, _, _ = mean(past[token], future[token], weights[token], values[token], bonus, valid, STEEP)
            output += value_reference
            if GATED:
                output *= tl.sigmoid(openings[token])
            tl.store(y + offset + (block * BLOCK + token) * channels, output, mask=valid)


@triton.jit
def write_outputs_kernel(
    k, v, gate, y, borders, decay, bonus, table, peaks, scales, pairs, lanes, tokens, channels,
    LENGTH: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr, PACKED: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """The weighted mean at each token, gated if there is a gate."""
    lane, channel, first, left, image_first, image_tokens = locate(
        table, lanes, tokens, channels, LENGTH, LANES, PACKED
    )
    w, u, growth, steep = per_token_parameters(decay, bonus, channel, image_tokens, LENGTH)
    offset = first * channels + channel
    value_reference = tl.load(v + image_first * channels + channel, mask=left > 0, other=0.0).to(tl.float32)
    if steep:
        _write_outputs(
            k, v, gate, y, borders, peaks, scales, pairs, w, u, growth, lane, lanes, offset, channels, left,
            value_reference, LENGTH, BLOCK, GATED, True,
        )  # fmt: skip
    else:
        _write_outputs(
            k, v, gate, y, borders, peaks, scales, pairs, w, u, growth, lane, lanes, offset, channels, left,
            value_reference, LENGTH, BLOCK, GATED, False,
        )  # fmt: skip
