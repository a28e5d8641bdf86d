"""Compiled loops of Bi-WKV's forward pass: chunk summaries, states between chunks, outputs. Maths in README.md.

A task is 16 channels of one chunk of tokens or, for the states, of one sequence. Where the number of channels is no
multiple of 16, the last block starts early and repeats channels of the one before, with the same results.

Weights are powers of two, so keys are multiplied by log₂ e on the way. A scale R is the logarithm (base 2) of the
weight that counts as 1; inside a chunk no weight exceeds 1.
"""

from numba import float32, float64

from vrwkv.ops.cpu_runtime.functions import LOG2_E, exp2, exp2_64, inlined, load, sigmoid, store
from vrwkv.ops.cpu_runtime.kernel import kernel
from vrwkv.ops.cpu_runtime.vectors import (
    BFLOAT16,
    FLOAT32,
    LANES,
    float_at,
    fused,
    load32,
    load64,
    maximum,
    narrow,
    prefetch,
    spread,
    stack_memory,
    store32,
    store64,
    store_float,
    widen,
    word_at,
    zeros32,
)

ROW = LANES * 4  # bytes of one float32 vector
CHUNK_ROW = 24  # bytes of a row of the table of chunks: first token, tokens, tokens of the sequence
LONGEST_CHUNK = 256
WALK_BYTES = 3 * ROW * LONGEST_CHUNK
NOTHING = -1e30  # scale of an empty state: finite, so that the difference of two of them is 0 and not NaN


@kernel
def find_extremes(first, last, arguments):  # type: ignore[no-untyped-def]
    """One task: the lowest and highest decay and the largest bonus; all NaN if any number is.

    Arguments: decay, bonus, C, float32 results.
    """
    decay, bonus, channels, found = (
        word_at(arguments),
        word_at(arguments + 8),
        word_at(arguments + 16),
        word_at(arguments + 24),
    )
    lowest, highest, largest, broken = float_at(decay), float_at(decay), float32(0.0), float32(0.0)
    for offset in range(0, channels * 4, 4):
        value, extra = float_at(decay + offset), float_at(bonus + offset)
        lowest, highest = min(lowest, value), max(highest, value)
        largest = max(largest, abs(extra))
        if value != value or extra != extra:
            broken = value + extra
    store_float(found, lowest + broken)
    store_float(found + 4, highest + broken)
    store_float(found + 8, largest + broken)


@inlined
def block_channel(block, channels):  # type: ignore[no-untyped-def]
    """First channel of a block of LANES."""
    return min(block * LANES, channels - LANES)


@inlined
def next_offset(chunks, task, blocks, channels, size):  # type: ignore[no-untyped-def]
    """Bytes from the first token's first channel to those of a task; the table ends with a spare chunk for the last."""
    return (word_at(chunks + task // blocks * CHUNK_ROW) * channels + block_channel(task % blocks, channels)) * size


@inlined
def decay_factor(decay, tokens):  # type: ignore[no-untyped-def]
    """e^{-decay/T} to the last bit of float32: an error would grow with every token of a chunk."""
    return narrow(exp2_64(widen(load32(decay)) * (-LOG2_E / tokens)))


@inlined
def largest_key(k, storage, stride, tokens):  # type: ignore[no-untyped-def]
    """Maximum over the tokens of a chunk, times log₂ e."""
    largest = load(k, storage)
    for token in range(1, tokens):
        largest = maximum(load(k + token * stride, storage), largest)
    return largest * LOG2_E


@inlined
def weight(k, storage, scale):  # type: ignore[no-untyped-def]
    """e^k relative to 2^scale."""
    return exp2(fused(load(k, storage), LOG2_E, 0.0 - scale))


@inlined
def walk_back(k, v, storage, stride, tokens, keep, scale, state, slots, slot_bytes, coming):  # type: ignore[no-untyped-def]
    """Leave in each token's slot its weight and the state (numerator, denominator) of the tokens after it.

    The cache lines of the next task, `coming` bytes from these, are asked for on the way: its rows lie too far apart
    for processors to foresee.
    """
    numerator, denominator = state
    for back in range(tokens):
        token = tokens - 1 - back
        offset = token * stride
        prefetch(k + offset + coming)
        prefetch(v + offset + coming)
        e = weight(k + offset, storage, scale)
        x = load(v + offset, storage)
        slot = slots + token * slot_bytes
        store32(slot, e)
        store32(slot + ROW, numerator)
        store32(slot + 2 * ROW, denominator)
        numerator = keep * numerator + e * x
        denominator = keep * denominator + e


@inlined
def _summarise_chunks(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    k, v, decay, chunks = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16), word_at(arguments + 24)
    summaries, channels = word_at(arguments + 32), word_at(arguments + 40)
    stride, plane = channels * size, channels * 4
    blocks = (channels + LANES - 1) // LANES
    for task in range(first, last):
        chunk, channel = task // blocks, block_channel(task % blocks, channels)
        row = chunks + chunk * CHUNK_ROW
        start, tokens = word_at(row), word_at(row + 8)
        here = start * stride + channel * size
        keep = decay_factor(decay + channel * 4, float64(word_at(row + 16)))
        coming = next_offset(chunks, task + 1, blocks, channels, size) - here
        scale = largest_key(k + here, storage, stride, tokens)
        numerator_end, denominator_end, numerator_start, denominator_start = zeros32(), zeros32(), zeros32(), zeros32()
        reach = spread(float32(1.0))
        for token in range(tokens):
            offset = here + token * stride
            prefetch(k + offset + coming)
            prefetch(v + offset + coming)
            e = weight(k + offset, storage, scale)
            ev = e * load(v + offset, storage)
            numerator_end = keep * numerator_end + ev
            denominator_end = keep * denominator_end + e
            numerator_start = numerator_start + reach * ev
            denominator_start = denominator_start + reach * e
            reach = reach * keep
        out = summaries + (chunk * 5 * channels + channel) * 4
        store32(out, scale)
        store32(out + plane, numerator_end)
        store32(out + 2 * plane, denominator_end)
        store32(out + 3 * plane, numerator_start)
        store32(out + 4 * plane, denominator_start)


@kernel
def summarise_chunks(first, last, arguments):  # type: ignore[no-untyped-def]
    """What each chunk hands on: its scale R = max k, and Σ 2^(k-R) (v, 1) decayed to its end and to its start.

    Arguments: k, v, decay, chunks, summaries (chunks, 5, C), C, storage of k and v.
    """
    if word_at(arguments + 48) == BFLOAT16:
        _summarise_chunks(first, last, arguments, BFLOAT16, 2)
    else:
        _summarise_chunks(first, last, arguments, FLOAT32, 4)


@inlined
def advance(a, b, scale, fade, summary_a, summary_b, summary_scale):  # type: ignore[no-untyped-def]
    """Add a summary to the state (a, b) · 2^scale, which fades by 2^-fade meanwhile; float64."""
    faded = scale - fade
    common = maximum(faded, summary_scale)
    old, new = exp2_64(faded - common), exp2_64(summary_scale - common)
    return a * old + summary_a * new, b * old + summary_b * new, common


@kernel
def carry_states(first, last, arguments):  # type: ignore[no-untyped-def]
    """States that reach each chunk from both sides, at a scale R at which no weight inside the chunk exceeds 1.

    Arguments: decay, bonus, chunks, sequences (first chunk, end), summaries, states (chunks, 5, C) for R, numerator and
    denominator from before, numerator and denominator from after, scratch (chunks, 3, C) float64, C.
    """
    decay, bonus, chunks = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16)
    sequences, summaries, states = word_at(arguments + 24), word_at(arguments + 32), word_at(arguments + 40)
    scratch, channels = word_at(arguments + 48), word_at(arguments + 56)
    blocks = (channels + LANES - 1) // LANES
    plane, wide = channels * 4, channels * 8
    for task in range(first, last):
        sequence, channel = task // blocks, block_channel(task % blocks, channels)
        first_chunk, end_chunk = word_at(sequences + sequence * 16), word_at(sequences + sequence * 16 + 8)
        sequence_tokens = float64(word_at(chunks + first_chunk * CHUNK_ROW + 16))
        w = widen(load32(decay + channel * 4)) * (LOG2_E / sequence_tokens)
        u = widen(load32(bonus + channel * 4)) * (LOG2_E / sequence_tokens)
        nothing = widen(zeros32())
        numerator, denominator, scale = nothing, nothing, spread(NOTHING)
        for chunk in range(first_chunk, end_chunk):
            kept = scratch + (chunk * 3 * channels + channel) * 8
            store64(kept, numerator)
            store64(kept + wide, denominator)
            store64(kept + 2 * wide, scale)
            summary = summaries + (chunk * 5 * channels + channel) * 4
            numerator, denominator, scale = advance(
                numerator,
                denominator,
                scale,
                w * float64(word_at(chunks + chunk * CHUNK_ROW + 8)),
                widen(load32(summary + plane)),
                widen(load32(summary + 2 * plane)),
                widen(load32(summary)),
            )
        numerator, denominator, scale = nothing, nothing, spread(NOTHING)
        for back in range(end_chunk - first_chunk):
            chunk = end_chunk - 1 - back
            tokens = float64(word_at(chunks + chunk * CHUNK_ROW + 8))
            summary = summaries + (chunk * 5 * channels + channel) * 4
            kept = scratch + (chunk * 3 * channels + channel) * 8
            largest = widen(load32(summary))
            before = load64(kept + 2 * wide)
            growth = maximum(w * (1.0 - tokens), 0.0)
            common = narrow(maximum(largest + maximum(u, 0.0), maximum(before, scale) + growth))
            from_before, from_after = exp2_64(before - widen(common)), exp2_64(scale - widen(common))
            out = states + (chunk * 5 * channels + channel) * 4
            store32(out, common)
            store32(out + plane, narrow(load64(kept) * from_before))
            store32(out + 2 * plane, narrow(load64(kept + wide) * from_before))
            store32(out + 3 * plane, narrow(numerator * from_after))
            store32(out + 4 * plane, narrow(denominator * from_after))
            numerator, denominator, scale = advance(
                numerator,
                denominator,
                scale,
                w * tokens,
                widen(load32(summary + 3 * plane)),
                widen(load32(summary + 4 * plane)),
                largest,
            )


@inlined
def inherited(states, chunk, channel, channels, largest, u):  # type: ignore[no-untyped-def]
    """Scale of a chunk and the states before and after it; nothing is around a chunk that is a whole sequence."""
    if states == 0:
        return largest + maximum(u, 0.0), zeros32(), zeros32(), zeros32(), zeros32()
    state, plane = states + (chunk * 5 * channels + channel) * 4, channels * 4
    return (
        load32(state),
        load32(state + plane),
        load32(state + 2 * plane),
        load32(state + 3 * plane),
        load32(state + 4 * plane),
    )


@inlined
def _write_outputs(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    k, v, gate, y = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16), word_at(arguments + 24)
    decay, bonus, chunks, states = (
        word_at(arguments + 32),
        word_at(arguments + 40),
        word_at(arguments + 48),
        word_at(arguments + 56),
    )
    channels = word_at(arguments + 64)
    stride = channels * size
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
        coming = next_offset(chunks, task + 1, blocks, channels, size) - here
        walk_back(
            k + here, v + here, storage, stride, tokens, keep, scale,
            (numerator_after, denominator_after), slots, 3 * ROW, coming,
        )  # fmt: skip
        for token in range(tokens):
            slot, offset = slots + token * 3 * ROW, here + token * stride
            prefetch(y + offset + coming)
            e = load32(slot)
            x = load(v + offset, storage)
            own = e * extra
            mean = (numerator + load32(slot + ROW) + own * x) / (denominator + load32(slot + 2 * ROW) + own)
            if gate != 0:
                mean = mean * sigmoid(load(gate + offset, storage))
            store(y + offset, storage, mean)
            numerator = keep * numerator + e * x
            denominator = keep * denominator + e


@kernel
def write_outputs(first, last, arguments):  # type: ignore[no-untyped-def]
    """The weighted means of each chunk, gated if there is a gate.

    Arguments: k, v, gate (or 0), y, decay, bonus, chunks, states (0 if every chunk is a whole sequence), C, storage.
    """
    if word_at(arguments + 72) == BFLOAT16:
        _write_outputs(first, last, arguments, BFLOAT16, 2)
    else:
        _write_outputs(first, last, arguments, FLOAT32, 4)
