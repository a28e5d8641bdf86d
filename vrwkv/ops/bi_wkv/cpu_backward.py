"""Compiled loops of Bi-WKV's backward pass: what each chunk asks of the others, and the gradients. Maths in README.md.

The forward states are given; weights and means are computed once more from them. The adjoint sums Σ g/D and Σ g y/D run
over targets as the forward ones run over sources, at the scale -R of their chunk.
"""

from numba import float32, float64

from vrwkv.ops.bi_wkv.cpu_forward import (
    CHUNK_ROW,
    LONGEST_CHUNK,
    NOTHING,
    ROW,
    advance,
    block_channel,
    decay_factor,
    inherited,
    largest_key,
    next_offset,
    walk_back,
)
from vrwkv.ops.cpu_runtime.functions import LOG2_E, exp2, exp2_64, inlined, load, sigmoid, store
from vrwkv.ops.cpu_runtime.kernel import kernel
from vrwkv.ops.cpu_runtime.vectors import (
    BFLOAT16,
    FLOAT32,
    LANES,
    load32,
    load64,
    narrow,
    prefetch,
    spread,
    stack_memory,
    store32,
    store64,
    widen,
    word_at,
    zeros32,
)

SLOT = 7 * ROW
WALK_BYTES = SLOT * LONGEST_CHUNK


@inlined
def _ask_chunks(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    k, v, gate, grad = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16), word_at(arguments + 24)
    decay, bonus, chunks, states, asked = (
        word_at(arguments + 32),
        word_at(arguments + 40),
        word_at(arguments + 48),
        word_at(arguments + 56),
        word_at(arguments + 64),
    )
    channels = word_at(arguments + 72)
    stride, plane = channels * size, channels * 4
    blocks = (channels + LANES - 1) // LANES
    slots = stack_memory(WALK_BYTES)
    for task in range(first, last):
        chunk, channel = task // blocks, block_channel(task % blocks, channels)
        row = chunks + chunk * CHUNK_ROW
        start, tokens = word_at(row), word_at(row + 8)
        here = start * stride + channel * size
        keep = decay_factor(decay + channel * 4, float64(word_at(row + 16)))
        extra = exp2(load32(bonus + channel * 4) * float32(LOG2_E / word_at(row + 16)))
        scale, numerator, denominator, numerator_after, denominator_after = inherited(
            states, chunk, channel, channels, extra, extra
        )
        coming = next_offset(chunks, task + 1, blocks, channels, size) - here
        walk_back(
            k + here, v + here, storage, stride, tokens, keep, scale,
            (numerator_after, denominator_after), slots, 3 * ROW, coming,
        )  # fmt: skip
        end, end_mean, begin, begin_mean = zeros32(), zeros32(), zeros32(), zeros32()
        reach = spread(float32(1.0))
        for token in range(tokens):
            slot, offset = slots + token * 3 * ROW, here + token * stride
            prefetch(grad + offset + coming)
            e = load32(slot)
            x = load(v + offset, storage)
            own = e * extra
            inverse = 1.0 / (denominator + load32(slot + 2 * ROW) + own)
            mean = (numerator + load32(slot + ROW) + own * x) * inverse
            g = load(grad + offset, storage) * inverse
            if gate != 0:
                g = g * sigmoid(load(gate + offset, storage))
            end = keep * end + g
            end_mean = keep * end_mean + g * mean
            begin = begin + reach * g
            begin_mean = begin_mean + reach * g * mean
            reach = reach * keep
            numerator = keep * numerator + e * x
            denominator = keep * denominator + e
        out = asked + (chunk * 4 * channels + channel) * 4
        store32(out, end)
        store32(out + plane, end_mean)
        store32(out + 2 * plane, begin)
        store32(out + 3 * plane, begin_mean)


@kernel
def ask_chunks(first, last, arguments):  # type: ignore[no-untyped-def]
    """What the targets of each chunk ask of later and of earlier sources: Σ 2^R/D (g, g y) decayed to end and start.

    Arguments: k, v, gate (or 0), grad, decay, bonus, chunks, states, asked (chunks, 4, C), C, storage.
    """
    if word_at(arguments + 80) == BFLOAT16:
        _ask_chunks(first, last, arguments, BFLOAT16, 2)
    else:
        _ask_chunks(first, last, arguments, FLOAT32, 4)


@kernel
def carry_asked(first, last, arguments):  # type: ignore[no-untyped-def]
    """The adjoint sums that reach each chunk from both sides, at the chunk's own scale -R.

    Arguments: decay, chunks, sequences, states, asked (chunks, 4, C), result (chunks, 4, C), scratch (chunks, 3, C)
    float64, C. Not in place: blocks of channels overlap.
    """
    decay, chunks, sequences = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16)
    states, asked, result = word_at(arguments + 24), word_at(arguments + 32), word_at(arguments + 40)
    scratch, channels = word_at(arguments + 48), word_at(arguments + 56)
    blocks = (channels + LANES - 1) // LANES
    plane, wide = channels * 4, channels * 8
    for task in range(first, last):
        sequence, channel = task // blocks, block_channel(task % blocks, channels)
        first_chunk, end_chunk = word_at(sequences + sequence * 16), word_at(sequences + sequence * 16 + 8)
        w = widen(load32(decay + channel * 4)) * (LOG2_E / word_at(chunks + first_chunk * CHUNK_ROW + 16))
        nothing = widen(zeros32())
        plain, mean, scale = nothing, nothing, spread(NOTHING)
        for chunk in range(first_chunk, end_chunk):
            kept = scratch + (chunk * 3 * channels + channel) * 8
            store64(kept, plain)
            store64(kept + wide, mean)
            store64(kept + 2 * wide, scale)
            own = asked + (chunk * 4 * channels + channel) * 4
            own_scale = 0.0 - widen(load32(states + (chunk * 5 * channels + channel) * 4))
            fade = w * float64(word_at(chunks + chunk * CHUNK_ROW + 8))
            plain, mean, scale = advance(
                plain, mean, scale, fade, widen(load32(own)), widen(load32(own + plane)), own_scale
            )
        plain, mean, scale = nothing, nothing, spread(NOTHING)
        for back in range(end_chunk - first_chunk):
            chunk = end_chunk - 1 - back
            kept = scratch + (chunk * 3 * channels + channel) * 8
            own = asked + (chunk * 4 * channels + channel) * 4
            own_scale = 0.0 - widen(load32(states + (chunk * 5 * channels + channel) * 4))
            begin, begin_mean = widen(load32(own + 2 * plane)), widen(load32(own + 3 * plane))
            from_before, from_after = exp2_64(load64(kept + 2 * wide) - own_scale), exp2_64(scale - own_scale)
            out = result + (chunk * 4 * channels + channel) * 4
            store32(out, narrow(load64(kept) * from_before))
            store32(out + plane, narrow(load64(kept + wide) * from_before))
            store32(out + 2 * plane, narrow(plain * from_after))
            store32(out + 3 * plane, narrow(mean * from_after))
            fade = w * float64(word_at(chunks + chunk * CHUNK_ROW + 8))
            plain, mean, scale = advance(plain, mean, scale, fade, begin, begin_mean, own_scale)


@inlined
def _write_gradients(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    k, v, gate, grad = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16), word_at(arguments + 24)
    decay, bonus, chunks, states, asked = (
        word_at(arguments + 32),
        word_at(arguments + 40),
        word_at(arguments + 48),
        word_at(arguments + 56),
        word_at(arguments + 64),
    )
    grad_k, grad_v, grad_gate, sums, channels = (
        word_at(arguments + 72),
        word_at(arguments + 80),
        word_at(arguments + 88),
        word_at(arguments + 96),
        word_at(arguments + 104),
    )
    stride, plane = channels * size, channels * 4
    blocks = (channels + LANES - 1) // LANES
    slots = stack_memory(WALK_BYTES)
    for task in range(first, last):
        chunk, channel = task // blocks, block_channel(task % blocks, channels)
        row = chunks + chunk * CHUNK_ROW
        start, tokens = word_at(row), word_at(row + 8)
        here = start * stride + channel * size
        keep = decay_factor(decay + channel * 4, float64(word_at(row + 16)))
        u = load32(bonus + channel * 4) * float32(LOG2_E / word_at(row + 16))
        extra = exp2(u)
        largest = largest_key(k + here, storage, stride, tokens) if states == 0 else u
        scale, numerator, denominator, numerator_after, denominator_after = inherited(
            states, chunk, channel, channels, largest, u
        )
        before, before_mean, after, after_mean = zeros32(), zeros32(), zeros32(), zeros32()
        if asked != 0:
            own_asked = asked + (chunk * 4 * channels + channel) * 4
            before, before_mean = load32(own_asked), load32(own_asked + plane)
            after, after_mean = load32(own_asked + 2 * plane), load32(own_asked + 3 * plane)
        coming = next_offset(chunks, task + 1, blocks, channels, size) - here
        walk_back(
            k + here, v + here, storage, stride, tokens, keep, scale,
            (numerator_after, denominator_after), slots, SLOT, coming,
        )  # fmt: skip
        crossing, own_sum = zeros32(), zeros32()
        for token in range(tokens):
            slot, offset = slots + token * SLOT, here + token * stride
            prefetch(grad + offset + coming)
            prefetch(grad_k + offset + coming)
            prefetch(grad_v + offset + coming)
            e, numerator_after, denominator_after = load32(slot), load32(slot + ROW), load32(slot + 2 * ROW)
            x = load(v + offset, storage)
            own = e * extra
            inverse = 1.0 / (denominator + denominator_after + own)
            mean = (numerator + numerator_after + own * x) * inverse
            g = load(grad + offset, storage)
            if gate != 0:
                opening = sigmoid(load(gate + offset, storage))
                opened = g * opening
                store(grad_gate + offset, storage, opened * (1.0 - opening) * mean)
                g = opened
            g = g * inverse
            g_mean = g * mean
            own_match = own * (g * x - g_mean)
            own_sum = own_sum + own_match
            crossing = crossing + (numerator_after * before - denominator_after * before_mean)
            store32(slot + ROW, g)
            store32(slot + 2 * ROW, g_mean)
            store32(slot + 3 * ROW, numerator)
            store32(slot + 4 * ROW, denominator)
            store32(slot + 5 * ROW, own_match + e * (before * x - before_mean))
            store32(slot + 6 * ROW, own * g + e * before)
            numerator = keep * numerator + e * x
            denominator = keep * denominator + e
            before = keep * before + g
            before_mean = keep * before_mean + g_mean
        for back in range(tokens):
            token = tokens - 1 - back
            slot, offset = slots + token * SLOT, here + token * stride
            e = load32(slot)
            x = load(v + offset, storage)
            crossing = crossing + (load32(slot + 3 * ROW) * after - load32(slot + 4 * ROW) * after_mean)
            store(grad_k + offset, storage, load32(slot + 5 * ROW) + e * (after * x - after_mean))
            store(grad_v + offset, storage, load32(slot + 6 * ROW) + e * after)
            after = keep * after + load32(slot + ROW)
            after_mean = keep * after_mean + load32(slot + 2 * ROW)
        share = float32(1.0 / word_at(row + 16))
        out = sums + (chunk * 2 * channels + channel) * 4
        store32(out, crossing * keep * (0.0 - share))
        store32(out + plane, own_sum * share)


@kernel
def write_gradients(first, last, arguments):  # type: ignore[no-untyped-def]
    """Gradients in k, v and gate, and each chunk's share (chunks, 2, C) of those in decay and bonus.

    Arguments: k, v, gate (or 0), grad, decay, bonus, chunks, states and asked (0 if every chunk is a whole sequence),
    grad_k, grad_v, grad_gate, sums, C, storage.
    """
    if word_at(arguments + 112) == BFLOAT16:
        _write_gradients(first, last, arguments, BFLOAT16, 2)
    else:
        _write_gradients(first, last, arguments, FLOAT32, 4)
