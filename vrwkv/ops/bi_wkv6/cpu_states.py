"""Compiled loops of Bi-WKV6: what each segment adds to the states of both directions, and the states between segments.

Letters in this file: M items (a segment of one head each), N head size.
"""

from vrwkv.ops.bi_wkv6.cpu_chunks import (
    ROW,
    SEGMENT_ROW,
    advance,
    bytes_of,
    chunk_decays,
    exact_decay_of,
    fill,
)
from vrwkv.ops.bi_wkv6.cpu_plan import CHUNK
from vrwkv.ops.cpu_runtime.functions import inlined, load
from vrwkv.ops.cpu_runtime.kernel import kernel
from vrwkv.ops.cpu_runtime.vectors import (
    LANES,
    float_at,
    fused,
    load32,
    stack_memory,
    store32,
    word_at,
    zeros32,
)


@inlined
def _summarise_chunk(rows, columns, w, tokens, stride, w_stride, storage, w_storage, past, future, fade, memory, size):  # type: ignore[no-untyped-def]
    """Add one chunk to both states of a segment and to its decay."""
    width = size * 4
    to_end, from_start, values = memory, memory + CHUNK * width, memory + 2 * CHUNK * width
    whole, ones = memory + 3 * CHUNK * width, memory + 3 * CHUNK * width + width
    log2, before, after = stack_memory(512), stack_memory(512), stack_memory(512)
    fill(memory, 3 * CHUNK * width)
    for block in range(size // LANES):
        lanes = block * ROW
        own, own_w = block * LANES * bytes_of(storage), block * LANES * bytes_of(w_storage)
        total = chunk_decays(w + own_w, w_stride, w_storage, tokens, log2, before, after)
        reach = load32(fade + lanes)
        for token in range(tokens):
            row = load(rows + own + token * stride, storage)
            store32(to_end + token * width + lanes, row * load32(after + token * ROW))
            store32(from_start + token * width + lanes, row * load32(before + token * ROW) * reach)
            store32(values + token * width + lanes, load(columns + own + token * stride, storage))
        keep = exact_decay_of(total)
        store32(whole + lanes, keep)
        store32(ones + lanes, zeros32() + 1.0)
        store32(fade + lanes, keep * reach)
    advance(past, whole, to_end, values, size)
    advance(future, ones, from_start, values, size)


@kernel
def summarise_segments(first, last, arguments):  # type: ignore[no-untyped-def]
    """What each segment hands on to later ones and to earlier ones, and its decay.

    Arguments: rows, columns, w (tokens, H, N), segments, summaries (M, 2, N, N) in blocks of columns, fades (M, N),
    scratch, its bytes for each worker, M, workers, H, N, storage of rows and columns, storage of w.
    """
    rows, columns, w, segments = (
        word_at(arguments),
        word_at(arguments + 8),
        word_at(arguments + 16),
        word_at(arguments + 24),
    )
    summaries, fades, scratch, scratch_bytes = (
        word_at(arguments + 32),
        word_at(arguments + 40),
        word_at(arguments + 48),
        word_at(arguments + 56),
    )
    items, workers, heads, size = (
        word_at(arguments + 64),
        word_at(arguments + 72),
        word_at(arguments + 80),
        word_at(arguments + 88),
    )
    storage, w_storage = word_at(arguments + 96), word_at(arguments + 104)
    stride, w_stride = heads * size * bytes_of(storage), heads * size * bytes_of(w_storage)
    state_bytes = size * size * 4
    for worker in range(first, last):
        memory = scratch + worker * scratch_bytes
        for item in range(items * worker // workers, items * (worker + 1) // workers):
            head, segment = item % heads, segments + item // heads * SEGMENT_ROW
            start, tokens = word_at(segment), word_at(segment + 8)
            past, fade = summaries + item * 2 * state_bytes, fades + item * size * 4
            fill(past, 2 * state_bytes)
            for lanes in range(0, size * 4, ROW):
                store32(fade + lanes, zeros32() + 1.0)
            for begin in range(0, tokens, CHUNK):
                here = (start + begin) * stride + head * size * bytes_of(storage)
                here_w = (start + begin) * w_stride + head * size * bytes_of(w_storage)
                _summarise_chunk(
                    rows + here, columns + here, w + here_w, min(tokens - begin, CHUNK), stride, w_stride, storage,
                    w_storage, past, past + state_bytes, fade, memory, size,
                )  # fmt: skip


@inlined
def _hand_on(state, fade, running, size):  # type: ignore[no-untyped-def]
    """Exchange a segment's summary for the state that reaches it, and let it pass over the segment."""
    for row in range(size):
        keep = float_at(fade + row * 4)
        for block in range(size // LANES):
            place = (block * size + row) * ROW
            carried, summary = load32(running + place), load32(state + place)
            store32(state + place, carried)
            store32(running + place, fused(carried, keep, summary))


@kernel
def carry_states(first, last, arguments):  # type: ignore[no-untyped-def]
    """Turn the summaries into the states that reach each segment. A task is one head of one sequence.

    Arguments: sequences (first segment, end), summaries (M, 2, N, N), fades (M, N), scratch (tasks, N, N), H, N.
    """
    sequences, summaries, fades = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16)
    scratch, heads, size = word_at(arguments + 24), word_at(arguments + 32), word_at(arguments + 40)
    state_bytes = size * size * 4
    for task in range(first, last):
        head, sequence = task % heads, sequences + task // heads * 16
        begin, end = word_at(sequence), word_at(sequence + 8)
        running = scratch + task * state_bytes
        fill(running, state_bytes)
        for segment in range(begin, end):
            item = segment * heads + head
            _hand_on(summaries + item * 2 * state_bytes, fades + item * size * 4, running, size)
        fill(running, state_bytes)
        for back in range(end - begin):
            item = (end - 1 - back) * heads + head
            _hand_on(summaries + (item * 2 + 1) * state_bytes, fades + item * size * 4, running, size)
