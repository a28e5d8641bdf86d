"""Compiled loop of Bi-WKV6's backward pass. Maths in README.md, pairs inside a chunk in cpu_pairs.py.

An item is one segment of one head. It takes 16 channels of the keys at a time: a walk up with the states that come
from before each chunk, then a walk down with those from after it. The states of the walk up are kept for every chunk,
because the pairs that pass over a whole chunk are sums of products of states from either side.

Letters in this file: n chunks of a segment, c tokens of a chunk, N head size. States are stored as (N, 16): along the
first axis the channels of the values, in a vector those of the keys; `turned` ones the other way round, in blocks.
"""

from vrwkv.ops.bi_wkv6.cpu_chunk_gradients import (
    CROSSING,
    FROM_START,
    GRAD_K,
    GRAD_R,
    LINES,
    LOG2,
    MATRIX,
    NOTED,
    TO_END,
    WHOLE,
    add_grad_values,
    advance_turned,
    begin_segment,
    passing_over,
    reach_over_border,
    read_chunk,
    weigh,
)
from vrwkv.ops.bi_wkv6.cpu_chunks import (
    ROW,
    SEGMENT_ROW,
    TILE,
    add_products,
    advance_columns,
    bytes_of,
    fill,
    load_tile,
    store_tile,
)
from vrwkv.ops.bi_wkv6.cpu_pairs import add_to
from vrwkv.ops.bi_wkv6.cpu_plan import CHUNK
from vrwkv.ops.cpu_runtime.functions import inlined, store
from vrwkv.ops.cpu_runtime.kernel import kernel
from vrwkv.ops.cpu_runtime.vectors import (
    LANES,
    float_at,
    load32,
    store32,
    store_float,
    word_at,
    zeros32,
)

LN_2 = 0.6931471805599453


@inlined
def _walk_up(inputs, strides, areas, matches, scores, bonus, tokens, size):  # type: ignore[no-untyped-def]
    """From the first chunk to the last; returns the gradient of the bonus."""
    r, k, w = inputs
    stride, w_stride, storage, w_storage = strides
    values, gradients, grad_values, noted, past, asked_before, turned, lines = areas
    width, state_bytes = size * 4, size * ROW
    receptances, keys, passing = lines, lines + LINES, lines + 2 * LINES
    grad_bonus = zeros32()
    for begin in range(0, tokens, CHUNK):
        chunk, rows = begin // CHUNK, begin * width
        own, state, asked = noted + chunk * NOTED, past + chunk * state_bytes, asked_before + chunk * state_bytes
        grad_bonus = grad_bonus + read_chunk(
            r + begin * stride, k + begin * stride, w + begin * w_stride, bonus, min(tokens - begin, CHUNK), stride,
            w_stride, storage, w_storage, matches + chunk * MATRIX, scores + chunk * MATRIX, own,
        )  # fmt: skip
        reach_over_border(values + rows, gradients + rows, state, asked, own, FROM_START, passing, size)
        after = zeros32()
        for back in range(CHUNK):
            line = (CHUNK - 1 - back) * ROW
            add_to(own + CROSSING + line, after)
            after = after + load32(passing + line)
        weigh(own, FROM_START, receptances, keys)
        add_grad_values(grad_values + rows, keys, turned, size)
        if begin + CHUNK < tokens:
            weigh(own, TO_END, receptances, keys)
            whole = load32(own + WHOLE)
            advance_columns(state, state + state_bytes, whole, values + rows, width, keys, size)
            advance_columns(asked, asked + state_bytes, whole, gradients + rows, width, receptances, size)
            advance_turned(turned, own + WHOLE, receptances, gradients + rows, size)
    return grad_bonus


@inlined
def _walk_down(outputs, strides, areas, future, asked_after, tokens, size):  # type: ignore[no-untyped-def]
    """From the last chunk to the first, which completes the gradients of r, k and w."""
    grad_r, grad_k, grad_w = outputs
    stride, w_stride, storage, w_storage = strides
    values, gradients, grad_values, noted, past, asked_before, turned, lines = areas
    width, state_bytes = size * 4, size * ROW
    receptances, keys, passing = lines, lines + LINES, lines + 2 * LINES
    chunks = (tokens + CHUNK - 1) // CHUNK
    for back in range(chunks):
        chunk = chunks - 1 - back
        rows, own, state = chunk * CHUNK * width, noted + chunk * NOTED, chunk * state_bytes
        whole = load32(own + WHOLE)
        reach_over_border(values + rows, gradients + rows, future, asked_after, own, TO_END, passing, size)
        over = whole * passing_over(past + state, asked_after, future, asked_before + state, size)
        for token in range(min(tokens - chunk * CHUNK, CHUNK)):
            line, position = token * ROW, chunk * CHUNK + token
            store(grad_r + position * stride, storage, load32(own + GRAD_R + line))
            store(grad_k + position * stride, storage, load32(own + GRAD_K + line))
            crossing = load32(own + CROSSING + line) + over
            store(grad_w + position * w_stride, w_storage, crossing * (load32(own + LOG2 + line) * LN_2))
            over = over + load32(passing + line)
        weigh(own, TO_END, receptances, keys)
        add_grad_values(grad_values + rows, keys, turned, size)
        if chunk > 0:
            weigh(own, FROM_START, receptances, keys)
            advance_columns(future, future, whole, values + rows, width, keys, size)
            advance_columns(asked_after, asked_after, whole, gradients + rows, width, receptances, size)
            advance_turned(turned, own + WHOLE, receptances, gradients + rows, size)


@inlined
def _write_grad_values(grad_v, gradients, grad_values, scores, tokens, stride, storage, size):  # type: ignore[no-untyped-def]
    """Add what the pairs inside each chunk ask, Σ_t A_ts g_t, and write the gradient of the values."""
    width = size * 4
    for begin in range(0, tokens, TILE):
        chunk = begin // CHUNK
        own = scores + chunk * MATRIX + begin % CHUNK * 4
        for block in range(size // LANES):
            place = grad_values + begin * width + block * ROW
            asking = gradients + chunk * CHUNK * width + block * ROW
            tile = add_products(load_tile(place, width), own, 4, CHUNK * 4, asking, width, CHUNK)
            store_tile(place, width, tile)
            for token in range(begin, min(begin + TILE, tokens)):
                here = grad_v + token * stride + block * LANES * bytes_of(storage)
                store(here, storage, load32(grad_values + token * width + block * ROW))


@inlined
def _inherit(state, inherited, channel, size):  # type: ignore[no-untyped-def]
    """Begin with 16 rows of the state (N, N) that reaches a segment, turned; with nothing if it is a whole sequence."""
    if inherited == 0:
        fill(state, size * ROW)
    else:
        for column in range(size):
            block, lane = column // LANES, column % LANES
            for row in range(LANES):
                source = inherited + ((block * size + channel + row) * LANES + lane) * 4
                store_float(state + column * ROW + row * 4, float_at(source))


@inlined
def _inherit_turned(turned, inherited, channel, size):  # type: ignore[no-untyped-def]
    """The same 16 rows as they are stored."""
    if inherited == 0:
        fill(turned, size * ROW)
    else:
        for block in range(size // LANES):
            for row in range(LANES):
                source = inherited + (block * size + channel + row) * ROW
                store32(turned + (block * LANES + row) * ROW, load32(source))


@kernel
def write_gradients(first, last, arguments):  # type: ignore[no-untyped-def]
    """Gradients of every segment in r, k, v and w, and its share (M, N) of that in u.

    Arguments: r, k, v, w (tokens, H, N), u (H, N) float32, grad, segments, states and asked (M, 2, N, N) in blocks of
    columns or 0, grad_r, grad_k, grad_v, grad_w, sums, scratch, its bytes for each worker, chunks of the longest
    segment, M, workers, H, N, storage of all but w, storage of w.
    """
    r, k, v, w = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16), word_at(arguments + 24)
    u, grad, segments = word_at(arguments + 32), word_at(arguments + 40), word_at(arguments + 48)
    states, asked = word_at(arguments + 56), word_at(arguments + 64)
    grad_r, grad_k = word_at(arguments + 72), word_at(arguments + 80)
    grad_v, grad_w, sums = word_at(arguments + 88), word_at(arguments + 96), word_at(arguments + 104)
    scratch, scratch_bytes, chunks = word_at(arguments + 112), word_at(arguments + 120), word_at(arguments + 128)
    items, workers, heads = word_at(arguments + 136), word_at(arguments + 144), word_at(arguments + 152)
    size, storage, w_storage = word_at(arguments + 160), word_at(arguments + 168), word_at(arguments + 176)
    bytes_each, w_bytes_each = bytes_of(storage), bytes_of(w_storage)
    strides = heads * size * bytes_each, heads * size * w_bytes_each, storage, w_storage
    rows_bytes, strip, state_bytes = chunks * CHUNK * size * 4, size * ROW, size * size * 4
    for worker in range(first, last):
        values = scratch + worker * scratch_bytes
        gradients, grad_values = values + rows_bytes, values + 2 * rows_bytes
        matches = values + 3 * rows_bytes
        scores = matches + chunks * MATRIX
        noted = scores + chunks * MATRIX
        past = noted + chunks * NOTED
        asked_before = past + chunks * strip
        turned = asked_before + chunks * strip
        lines = turned + 3 * strip
        areas = values, gradients, grad_values, noted, past, asked_before, turned, lines
        future, asked_after = turned + strip, turned + 2 * strip
        for item in range(items * worker // workers, items * (worker + 1) // workers):
            head, segment = item % heads, segments + item // heads * SEGMENT_ROW
            start, tokens = word_at(segment), word_at(segment + 8)
            here = start * strides[0] + head * size * bytes_each
            here_w = start * strides[1] + head * size * w_bytes_each
            begin_segment(
                v + here, grad + here, tokens, strides[0], storage, values, gradients, grad_values, matches, scores,
                size,
            )  # fmt: skip
            from_before = states + item * 2 * state_bytes if states != 0 else 0
            from_after = from_before + state_bytes if states != 0 else 0
            asked_by_earlier = asked + item * 2 * state_bytes if states != 0 else 0
            asked_by_later = asked_by_earlier + state_bytes if states != 0 else 0
            for channel in range(0, size, LANES):
                there, there_w = here + channel * bytes_each, here_w + channel * w_bytes_each
                _inherit(past, from_before, channel, size)
                _inherit(asked_before, asked_by_earlier, channel, size)
                _inherit_turned(turned, asked_by_earlier, channel, size)
                bonus = load32(u + (head * size + channel) * 4)
                inputs = r + there, k + there, w + there_w
                grad_bonus = _walk_up(inputs, strides, areas, matches, scores, bonus, tokens, size)
                store32(sums + (item * size + channel) * 4, grad_bonus)
                _inherit(future, from_after, channel, size)
                _inherit(asked_after, asked_by_later, channel, size)
                _inherit_turned(turned, asked_by_later, channel, size)
                outputs = grad_r + there, grad_k + there, grad_w + there_w
                _walk_down(outputs, strides, areas, future, asked_after, tokens, size)
            _write_grad_values(grad_v + here, gradients, grad_values, scores, tokens, strides[0], storage, size)
