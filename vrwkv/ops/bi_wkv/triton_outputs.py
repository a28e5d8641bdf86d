# mypy: ignore-errors
"""Outputs of Bi-WKV: a program reads a span of tokens once and keeps it in registers.

It finds what each chunk hands on, then what reaches each chunk from the others and from other spans, and then walks
through each chunk from both sides.
"""

import triton
import triton.language as tl

from vrwkv.ops.bi_wkv.triton_channels import bounded_exp2, store_raw, unpack
from vrwkv.ops.bi_wkv.triton_chunks import faded, load_block, load_rows, summarise, weight_of
from vrwkv.ops.bi_wkv.triton_exchange import (
    add_other_spans,
    distances,
    exchange_in_span,
    largest_of_rows,
    publish,
)
from vrwkv.ops.bi_wkv.triton_programs import channel_parameters, is_steep, locate, tokens_of
from vrwkv.ops.triton_arithmetic import LOG2_E, MINUS_LOG2_E, exp2, inverse


@triton.jit(do_not_specialize=("tokens", "spans"))
def outputs_kernel(
    k, v, gate, y, decay, bonus, table, totals, tokens, channels, spans,
    CHUNKS: tl.constexpr, LENGTH: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr,
    NEIGHBOURS: tl.constexpr, TOGETHER: tl.constexpr, GATED: tl.constexpr, PACKED: tl.constexpr, SENDS: tl.constexpr,
    RECEIVES: tl.constexpr,
):  # fmt: skip
    """The weighted mean at each token, gated if there is a gate, of the lanes in which no channel is steep.

    SENDS: publish what the span hands on, and do no more unless it RECEIVES. RECEIVES: add what other spans hand on.
    """
    SPAN: tl.constexpr = CHUNKS * LENGTH
    slot, first_slot, span, spans, image_first, count, lane = locate(
        table, tokens, channels, spans, SPAN, LANES, WIDTH, NEIGHBOURS, PACKED
    )
    exists = WIDTH * lane < channels
    chunk = tl.arange(0, CHUNKS)[:, None]
    w, u, fade, own_factor = channel_parameters(decay, bonus, lane, exists, count, WIDTH)
    chunks, growth, first_token, left = tokens_of(span, count, chunk, exists, w, SPAN, LENGTH)
    start = (image_first + span * SPAN) * channels
    k += start
    v += start
    gate += start
    y += start
    step = channels // WIDTH
    offset = first_token * step + lane
    keys = load_rows(k, offset, step, left, True, LENGTH, WIDTH)
    values = load_rows(v, offset, step, left, False, LENGTH, WIDTH)
    nothing = tl.zeros([CHUNKS, LANES, WIDTH], tl.float32) + w * 0.0
    chunk_scale, start_first, start_second, end_first, end_second, states = summarise(
        keys, values, k, v, fade, nothing, LENGTH, BLOCK, WIDTH, False
    )
    own_scale = largest_of_rows(chunk_scale) + growth
    factor = exp2((chunk_scale - own_scale) * LOG2_E)
    to_last, to_first, from_last, from_first = distances(w, chunk, chunks, LENGTH)
    before_first, before_second, after_first, after_second, a, b, c, d = exchange_in_span(
        end_first * factor, end_second * factor, start_first * factor, start_second * factor,
        to_last, to_first, from_last, from_first,
    )  # fmt: skip
    if SENDS:
        publish(totals, slot, channels, lane, exists, chunk, own_scale, a, b, c, d, CHUNKS, WIDTH)
    scale = own_scale
    if RECEIVES:
        scale, before_first, before_second, after_first, after_second = add_other_spans(
            before_first, before_second, after_first, after_second, to_last, to_first,
            totals, first_slot, span, spans, channels, lane, exists, decay, count, own_scale, growth,
            SPAN, TOGETHER, WIDTH,
        )  # fmt: skip
    if RECEIVES or not SENDS:
        factor = exp2((chunk_scale - scale) * LOG2_E)
        # By lanes, not channels: only what is written or left alone together is written as one word.
        steep = tl.max(tl.where(is_steep(w, u, count, SPAN, LENGTH, False), 1, 0), 2)
        written = tl.where(steep > 0, 0, left)
        openings = ()
        if GATED:
            openings = load_block(gate, offset, step, left, 0, LENGTH, BLOCK, WIDTH)
        for block in tl.static_range(0, LENGTH, BLOCK):
            next_openings = ()
            if GATED:
                next_openings = load_block(gate, offset, step, left, block + BLOCK, LENGTH, BLOCK, WIDTH)
            ahead_first, ahead_second = faded(
                states[block // BLOCK], factor, (after_first, after_second), bounded_exp2(-w * (LENGTH - block - BLOCK))
            )
            weights, weighted, firsts, seconds = (), (), (), ()
            for row in tl.static_range(block, block + BLOCK):
                weight = weight_of(keys[row], k, scale, WIDTH)
                weights = weights + (weight,)  # noqa: RUF005
                weighted = weighted + (weight * unpack(values[row], v, True, WIDTH),)  # noqa: RUF005
            for row in tl.static_range(BLOCK - 1, -1, -1):
                firsts = (tl.fma(own_factor, weighted[row], ahead_first),) + firsts  # noqa: RUF005
                seconds = (tl.fma(own_factor, weights[row], ahead_second),) + seconds  # noqa: RUF005
                ahead_first = tl.fma(fade, ahead_first, weighted[row])
                ahead_second = tl.fma(fade, ahead_second, weights[row])
            for row in tl.static_range(BLOCK):
                denominator = seconds[row] + before_second
                if GATED:
                    opening = unpack(openings[row], gate, False, WIDTH)
                    denominator = tl.fma(denominator, exp2(opening * MINUS_LOG2_E), denominator)
                output = (firsts[row] + before_first) * inverse(denominator)
                store_raw(y, offset + (block + row) * step, block + row < written, output, WIDTH)
                before_first = tl.fma(fade, before_first, weighted[row])
                before_second = tl.fma(fade, before_second, weights[row])
            openings = next_openings
