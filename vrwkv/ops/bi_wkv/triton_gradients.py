# mypy: ignore-errors
"""Gradients of Bi-WKV: a program keeps a span of k, v and the output's gradient in registers.

With g the gradient in the ungated mean y and D its denominator, targets hand G = g / D and G y to sources as tokens
hand their values on: the adjoint sums. With e a token's weight, u its own factor and A the adjoint sums from both sides
and its own, grad v = e A1 and grad k = e (v A1 - A2); the bonus gets u e G (v - y). The decay gets, at each token,
what crosses it: states before it times adjoint states after it, and the reverse.
"""

import triton
import triton.language as tl

from vrwkv.ops.bi_wkv.triton_channels import bounded_exp2, store_channels, unpack
from vrwkv.ops.bi_wkv.triton_chunks import faded, load_block, load_rows, summarise, weight_of
from vrwkv.ops.bi_wkv.triton_exchange import (
    add_other_spans,
    distances,
    exchange_in_span,
    from_other_spans,
    largest_of_rows,
    publish,
)
from vrwkv.ops.bi_wkv.triton_programs import channel_parameters, is_steep, locate, tokens_of
from vrwkv.ops.triton_arithmetic import LOG2_E, exp2, inverse, sigmoid


@triton.jit
def _load_gradients(
    grad, gate, offset, step, left, LENGTH: tl.constexpr, WIDTH: tl.constexpr, GATED: tl.constexpr
):  # fmt: skip
    """Gradients in the ungated means of a chunk, a float32 row for each token."""
    raw = load_rows(grad, offset, step, left, False, LENGTH, WIDTH)
    openings = raw
    if GATED:
        openings = load_rows(gate, offset, step, left, False, LENGTH, WIDTH)
    rows = ()
    for row in tl.static_range(LENGTH):
        g = unpack(raw[row], grad, False, WIDTH)
        if GATED:
            g *= sigmoid(unpack(openings[row], gate, False, WIDTH))
        rows = rows + (g,)  # noqa: RUF005
    return rows


@triton.jit
def _summarise_adjoint(
    keys, values, grads, k, v, scale, factor, fade, own_factor, w, nothing, states,
    before, after, LENGTH: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Adjoint sums of a chunk as seen from its ends, in a walk from its last token to its first.

    Returns:
        Two sums at its end, two at its start, and before each block was walked through: states and adjoint states
        after it.
    """
    ahead_first, ahead_second = after
    first, second = nothing, nothing
    end_first, end_second = nothing, nothing
    power = nothing + 1.0
    ends = ()
    for block in tl.static_range(LENGTH - BLOCK, -1, -BLOCK):
        ends = ((ahead_first, ahead_second, first, second),) + ends  # noqa: RUF005
        past_first, past_second = faded(states[block // BLOCK], factor, before, bounded_exp2(-w * block))
        weights, firsts, seconds = (), (), ()
        for row in tl.static_range(block, block + BLOCK):
            weight = weight_of(keys[row], k, scale, WIDTH)
            weighted = weight * unpack(values[row], v, True, WIDTH)
            weights = weights + (weight,)  # noqa: RUF005
            firsts = firsts + (tl.fma(own_factor, weighted, past_first),)  # noqa: RUF005
            seconds = seconds + (tl.fma(own_factor, weight, past_second),)  # noqa: RUF005
            past_first = tl.fma(fade, past_first, weighted)
            past_second = tl.fma(fade, past_second, weight)
        for row in tl.static_range(BLOCK - 1, -1, -1):
            share = inverse(seconds[row] + ahead_second)
            mean = (firsts[row] + ahead_first) * share
            weight = share * grads[block + row]
            moment = weight * mean
            ahead_first = tl.fma(fade, ahead_first, weights[row] * unpack(values[block + row], v, True, WIDTH))
            ahead_second = tl.fma(fade, ahead_second, weights[row])
            first = tl.fma(fade, first, weight)
            second = tl.fma(fade, second, moment)
            end_first += power * weight
            end_second += power * moment
            power *= fade
    return end_first, end_second, first, second, ends


@triton.jit(do_not_specialize=("tokens", "spans"))
def gradients_kernel(
    grad, k, v, gate, grad_k, grad_v, grad_gate, decay, bonus, table, totals, adjoint_totals, partials,
    tokens, channels, spans,
    CHUNKS: tl.constexpr, LENGTH: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr,
    NEIGHBOURS: tl.constexpr, TOGETHER: tl.constexpr, GATED: tl.constexpr, PACKED: tl.constexpr, SENDS: tl.constexpr,
    RECEIVES: tl.constexpr,
):  # fmt: skip
    """Gradients in k, v and the gate, and each span's part of those in decay and bonus: `partials` (spans, 2, C).

    Of the channels that are not steep; the others' parts are 0. SENDS and RECEIVES as in `outputs_kernel`, of adjoint
    sums; `totals` are the forward pass's.
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
    grad += start
    k += start
    v += start
    gate += start
    grad_k += start
    grad_v += start
    grad_gate += start
    step = channels // WIDTH
    offset = first_token * step + lane
    keys = load_rows(k, offset, step, left, True, LENGTH, WIDTH)
    values = load_rows(v, offset, step, left, False, LENGTH, WIDTH)
    grads = _load_gradients(grad, gate, offset, step, left, LENGTH, WIDTH, GATED)
    nothing = tl.zeros([CHUNKS, LANES, WIDTH], tl.float32) + w * 0.0
    chunk_scale, end_first, end_second, start_first, start_second, states = summarise(
        keys, values, k, v, fade, nothing, LENGTH, BLOCK, WIDTH, True
    )
    own_scale = largest_of_rows(chunk_scale) + growth
    factor = exp2((chunk_scale - own_scale) * LOG2_E)
    to_last, to_first, from_last, from_first = distances(w, chunk, chunks, LENGTH)
    before_first, before_second, after_first, after_second, _, _, _, _ = exchange_in_span(
        end_first * factor, end_second * factor, start_first * factor, start_second * factor,
        to_last, to_first, from_last, from_first,
    )  # fmt: skip
    scale = own_scale
    if SENDS or RECEIVES:
        scale, before_first, before_second, after_first, after_second = add_other_spans(
            before_first, before_second, after_first, after_second, to_last, to_first,
            totals, first_slot, span, spans, channels, lane, exists, decay, count, own_scale, growth,
            SPAN, TOGETHER, WIDTH,
        )  # fmt: skip
    factor = exp2((chunk_scale - scale) * LOG2_E)
    end_first, end_second, start_first, start_second, ends = _summarise_adjoint(
        keys, values, grads, k, v, scale, factor, fade, own_factor, w, nothing, states,
        (before_first, before_second), (after_first, after_second), LENGTH, BLOCK, WIDTH,
    )  # fmt: skip
    past_first, past_second, later_first, later_second, a, b, c, d = exchange_in_span(
        end_first, end_second, start_first, start_second, to_last, to_first, from_last, from_first
    )
    if SENDS:
        publish(adjoint_totals, slot, channels, lane, exists, chunk, scale, a, b, c, d, CHUNKS, WIDTH)
    if RECEIVES:
        _, a, b, c, d = from_other_spans(
            adjoint_totals, first_slot, span, spans, channels, lane, exists, decay, count, scale, growth,
            SPAN, TOGETHER, WIDTH, True,
        )  # fmt: skip
        past_first += to_first * a
        past_second += to_first * b
        later_first += to_last * c
        later_second += to_last * d
    if RECEIVES or not SENDS:
        steep = is_steep(w, u, count, SPAN, LENGTH, True)
        channel = WIDTH * tl.expand_dims(lane, 2) + tl.arange(0, WIDTH)[None, None, :]
        place = tl.expand_dims(first_token * channels, 2) + channel
        written = tl.where(steep, 0, tl.expand_dims(left, 2))
        decay_sum, bonus_sum = nothing, nothing
        # Sums of states before tokens, faded: a target's product with them is what reaches it across tokens of the
        # chunk, so that states need not be kept until the adjoint states after them are known.
        twice_first, twice_second = nothing, nothing
        openings = ()
        if GATED:
            openings = load_block(gate, offset, step, left, 0, LENGTH, BLOCK, WIDTH)
        for block in tl.static_range(0, LENGTH, BLOCK):
            next_openings = ()
            if GATED:
                next_openings = load_block(gate, offset, step, left, block + BLOCK, LENGTH, BLOCK, WIDTH)
            ahead_first, ahead_second, own_first, own_second = ends[block // BLOCK]
            next_first, next_second = faded(
                (own_first, own_second), 1.0, (later_first, later_second), bounded_exp2(-w * (LENGTH - block - BLOCK))
            )
            weights, firsts, seconds = (), (), ()
            for row in tl.static_range(block, block + BLOCK):
                weights = weights + (weight_of(keys[row], k, scale, WIDTH),)  # noqa: RUF005
            for row in tl.static_range(BLOCK - 1, -1, -1):
                firsts = (ahead_first,) + firsts  # noqa: RUF005
                seconds = (ahead_second,) + seconds  # noqa: RUF005
                weighted = weights[row] * unpack(values[block + row], v, True, WIDTH)
                ahead_first = tl.fma(fade, ahead_first, weighted)
                ahead_second = tl.fma(fade, ahead_second, weights[row])
            shares, means, masses, moments = (), (), (), ()
            for row in tl.static_range(BLOCK):
                value = unpack(values[block + row], v, True, WIDTH)
                own = own_factor * weights[row]
                share = inverse(own + seconds[row] + before_second)
                mean = tl.fma(own, value, firsts[row] + before_first) * share
                if GATED:
                    opening = sigmoid(unpack(openings[row], gate, False, WIDTH))
                    closing = grads[block + row] * mean * (1.0 - opening)
                    tl.store(grad_gate + place + (block + row) * channels, closing, mask=block + row < written)
                share *= grads[block + row]
                moment = share * mean
                shares = shares + (share,)  # noqa: RUF005
                means = means + (mean,)  # noqa: RUF005
                masses = masses + (past_first,)  # noqa: RUF005
                moments = moments + (past_second,)  # noqa: RUF005
                decay_sum = tl.fma(firsts[row], past_first, decay_sum)
                decay_sum = tl.fma(-seconds[row], past_second, decay_sum)
                decay_sum = tl.fma(share, twice_first, decay_sum)
                decay_sum = tl.fma(-moment, twice_second, decay_sum)
                bonus_sum = tl.fma(weights[row] * share, value - mean, bonus_sum)
                twice_first = tl.fma(fade, twice_first, before_first)
                twice_second = tl.fma(fade, twice_second, before_second)
                before_first = tl.fma(fade, before_first, weights[row] * value)
                before_second = tl.fma(fade, before_second, weights[row])
                past_first = tl.fma(fade, past_first, share)
                past_second = tl.fma(fade, past_second, moment)
            for row in tl.static_range(BLOCK - 1, -1, -1):
                mass = masses[row] + next_first
                own = own_factor * shares[row]
                value = unpack(values[block + row], v, True, WIDTH)
                in_v = weights[row] * (mass + own)
                # A token's own part is exactly 0 where it is alone.
                in_k = tl.fma(value, mass, -(moments[row] + next_second))
                in_k = weights[row] * tl.fma(own, value - means[row], in_k)
                tl.store(grad_v + place + (block + row) * channels, in_v, mask=block + row < written)
                tl.store(grad_k + place + (block + row) * channels, in_k, mask=block + row < written)
                next_first = tl.fma(fade, next_first, shares[row])
                next_second = tl.fma(fade, next_second, shares[row] * means[row])
            openings = next_openings
        decay_sum = tl.fma(later_first, twice_first, decay_sum)
        decay_sum = tl.fma(-later_second, twice_second, decay_sum)
        per_image = 1.0 / tl.maximum(count, 1).to(tl.float32)
        in_decay = tl.expand_dims(tl.sum(decay_sum, 0), 0) * fade * -per_image
        in_bonus = tl.expand_dims(tl.sum(bonus_sum, 0), 0) * own_factor * per_image
        part = partials + slot.to(tl.int64) * 2 * channels
        exists = WIDTH * lane < tl.where(count > 0, channels, 0)
        store_channels(part, lane, exists, tl.where(steep, 0.0, in_decay), WIDTH)
        store_channels(part + channels, lane, exists, tl.where(steep, 0.0, in_bonus), WIDTH)
