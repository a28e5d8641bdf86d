"""Compiled loop of Bi-WKV6's forward pass. Maths in README.md, states in cpu_states.py.

An item is one segment of one head. A walk up adds what comes from before each token and from the pairs inside its
chunk, a walk down what comes from after it; the state of the direction stays in the cache meanwhile.
"""

from vrwkv.ops.bi_wkv6.cpu_chunks import (
    ROW,
    SEGMENT_ROW,
    TILE,
    add_products,
    advance,
    bytes_of,
    chunk_decays,
    decay_of,
    empty_tile,
    exact_decay_of,
    fill,
    load_tile,
    store_tile,
)
from vrwkv.ops.bi_wkv6.cpu_plan import CHUNK
from vrwkv.ops.cpu_runtime.functions import inlined, load, store
from vrwkv.ops.cpu_runtime.kernel import kernel
from vrwkv.ops.cpu_runtime.vectors import (
    LANES,
    fused,
    load32,
    prefetch,
    stack_memory,
    store32,
    store_float,
    sum_of_lanes,
    word_at,
    zeros32,
)

SCORE_BYTES = CHUNK * CHUNK * ROW


@inlined
def _add_scores(receptance, keys, log2, bonus, tokens, scores):  # type: ignore[no-untyped-def]
    """Add one block's channels to the scores A_ts of all pairs of a chunk: a vector for each, not yet summed."""
    for source in range(tokens):
        r, k = load32(receptance + source * ROW), load32(keys + source * ROW)
        own = scores + source * (CHUNK + 1) * ROW
        store32(own, fused(r * k, bonus, load32(own)))
        for target in range(source + 1, tokens):
            later = scores + (target * CHUNK + source) * ROW
            earlier = scores + (source * CHUNK + target) * ROW
            store32(later, fused(load32(receptance + target * ROW), k, load32(later)))
            store32(earlier, fused(load32(keys + target * ROW), r, load32(earlier)))
            keep = load32(log2 + target * ROW)
            r, k = r * keep, k * keep


@inlined
def _read_chunk(r, k, v, w, u, tokens, stride, w_stride, storage, w_storage, up, down, matrix, size):  # type: ignore[no-untyped-def]
    """Operands of a chunk.

    up: keys decayed to the end of the chunk and receptances decayed to its start, each (CHUNK, N).
    down: receptances to the end, keys to the start, values, each (CHUNK, N), and the decay over the chunk (N,).
    matrix: scores A_ts (CHUNK, CHUNK).
    """
    width, scores = size * 4, stack_memory(4096)
    log2, before, after = stack_memory(512), stack_memory(512), stack_memory(512)
    receptance, keys = stack_memory(512), stack_memory(512)
    plane, coming, coming_w = CHUNK * width, CHUNK * stride, CHUNK * w_stride
    if tokens < CHUNK:
        fill(up, 2 * plane)
        fill(down, 3 * plane)
    fill(scores, SCORE_BYTES)
    for block in range(size // LANES):
        lanes = block * ROW
        own, own_w = block * LANES * bytes_of(storage), block * LANES * bytes_of(w_storage)
        total = chunk_decays(w + own_w, w_stride, w_storage, tokens, log2, before, after)
        store32(down + 3 * plane + lanes, exact_decay_of(total))
        for token in range(tokens):
            place, here, line = token * width + lanes, own + token * stride, token * ROW
            prefetch(r + here + coming)
            prefetch(k + here + coming)
            prefetch(v + here + coming)
            prefetch(w + own_w + token * w_stride + coming_w)
            target, source = load(r + here, storage), load(k + here, storage)
            from_start, to_end = load32(before + line), load32(after + line)
            store32(up + place, source * to_end)
            store32(up + plane + place, target * from_start)
            store32(down + place, target * to_end)
            store32(down + plane + place, source * from_start)
            store32(down + 2 * plane + place, load(v + here, storage))
            store32(receptance + line, target)
            store32(keys + line, source)
            store32(log2 + line, decay_of(load32(log2 + line)))
        _add_scores(receptance, keys, log2, load32(u + lanes), tokens, scores)
    for pair in range(CHUNK * CHUNK):
        store_float(matrix + pair * 4, sum_of_lanes(load32(scores + pair * ROW)))


@inlined
def _walk_up(r, k, v, w, u, tokens, stride, w_stride, storage, w_storage, state, known, memory, noted, size):  # type: ignore[no-untyped-def]
    """Note down each chunk's operands for the walk down, and its outputs as far as they come from before and inside."""
    width = size * 4
    plane = CHUNK * width
    up, matrix, noted_bytes = memory, memory + 2 * plane, 4 * plane + width
    for begin in range(0, tokens, CHUNK):
        down = noted + begin // CHUNK * noted_bytes
        y = down + 3 * plane + width
        here, here_w = begin * stride, begin * w_stride
        _read_chunk(
            r + here, k + here, v + here, w + here_w, u, min(tokens - begin, CHUNK), stride, w_stride, storage,
            w_storage, up, down, matrix, size,
        )  # fmt: skip
        for block in range(size // LANES):
            lanes = block * ROW
            for token in range(0, CHUNK, TILE):
                tile = add_products(
                    empty_tile(), matrix + token * CHUNK * 4, CHUNK * 4, 4, down + 2 * plane + lanes, width, CHUNK
                )
                if begin > 0 or known:
                    targets = up + plane + token * width
                    tile = add_products(tile, targets, width, 4, state + block * size * ROW, ROW, size)
                store_tile(y + token * width + lanes, width, tile)
        if begin + CHUNK < tokens:
            advance(state, down + 3 * plane, up, down + 2 * plane, size)


@inlined
def _walk_down(y, tokens, stride, storage, state, known, noted, size):  # type: ignore[no-untyped-def]
    """Add what comes from after each chunk, and write the outputs."""
    width = size * 4
    plane = CHUNK * width
    noted_bytes = 4 * plane + width
    chunks = (tokens + CHUNK - 1) // CHUNK
    for back in range(chunks):
        chunk = chunks - 1 - back
        down = noted + chunk * noted_bytes
        begun = down + 3 * plane + width
        if back > 0 or known:
            for block in range(size // LANES):
                for token in range(0, CHUNK, TILE):
                    place = begun + token * width + block * ROW
                    tile = load_tile(place, width)
                    tile = add_products(tile, down + token * width, width, 4, state + block * size * ROW, ROW, size)
                    store_tile(place, width, tile)
        begin = chunk * CHUNK
        for token in range(min(tokens - begin, CHUNK)):
            for block in range(size // LANES):
                place = y + (begin + token) * stride + block * LANES * bytes_of(storage)
                store(place, storage, load32(begun + token * width + block * ROW))
        if chunk > 0:
            advance(state, down + 3 * plane, down + plane, down + 2 * plane, size)


@inlined
def _inherit(state, inherited, size):  # type: ignore[no-untyped-def]
    """Begin with the state that reaches a segment; with nothing if it is a whole sequence."""
    for offset in range(0, size * size * 4, ROW):
        store32(state + offset, load32(inherited + offset) if inherited != 0 else zeros32())


@kernel
def write_outputs(first, last, arguments):  # type: ignore[no-untyped-def]
    """Bi-WKV6 of every segment.

    Arguments: r, k, v, w (tokens, H, N), u (H, N) float32, y, segments, states (M, 2, N, N) in blocks of columns or 0,
    scratch, its bytes for each worker, M, workers, H, N, storage of r, k, v, y, storage of w.
    """
    r, k, v, w = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16), word_at(arguments + 24)
    u, y, segments, states = (
        word_at(arguments + 32),
        word_at(arguments + 40),
        word_at(arguments + 48),
        word_at(arguments + 56),
    )
    scratch, scratch_bytes, items, workers = (
        word_at(arguments + 64),
        word_at(arguments + 72),
        word_at(arguments + 80),
        word_at(arguments + 88),
    )
    heads, size, storage, w_storage = (
        word_at(arguments + 96),
        word_at(arguments + 104),
        word_at(arguments + 112),
        word_at(arguments + 120),
    )
    stride, w_stride = heads * size * bytes_of(storage), heads * size * bytes_of(w_storage)
    state_bytes, known = size * size * 4, states != 0
    for worker in range(first, last):
        state = scratch + worker * scratch_bytes
        memory = state + state_bytes
        noted = memory + (2 * size + CHUNK) * CHUNK * 4
        for item in range(items * worker // workers, items * (worker + 1) // workers):
            head, segment = item % heads, segments + item // heads * SEGMENT_ROW
            start, tokens = word_at(segment), word_at(segment + 8)
            here = start * stride + head * size * bytes_of(storage)
            here_w = start * w_stride + head * size * bytes_of(w_storage)
            inherited = states + item * 2 * state_bytes if known else 0
            _inherit(state, inherited, size)
            _walk_up(
                r + here, k + here, v + here, w + here_w, u + head * size * 4, tokens, stride, w_stride, storage,
                w_storage, state, known, memory, noted, size,
            )  # fmt: skip
            _inherit(state, inherited + state_bytes if known else 0, size)
            _walk_down(y + here, tokens, stride, storage, state, known, noted, size)
