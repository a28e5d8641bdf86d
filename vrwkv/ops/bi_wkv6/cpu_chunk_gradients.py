"""What one chunk adds to the gradients of Bi-WKV6: its own pairs, and those over its borders. Maths in README.md.

Letters as in cpu_backward.py: n chunks of a segment, c tokens of a chunk, N head size; 16 channels of the keys at once.
"""

from vrwkv.ops.bi_wkv6.cpu_chunks import (
    ROW,
    TILE,
    add_products,
    bytes_of,
    chunk_decays,
    decay_of,
    empty_tile,
    exact_decay_of,
    fill,
    load_tile,
    store_tile,
)
from vrwkv.ops.bi_wkv6.cpu_pairs import add_pairs, add_to, write_matches
from vrwkv.ops.bi_wkv6.cpu_plan import CHUNK
from vrwkv.ops.cpu_runtime.functions import inlined, load
from vrwkv.ops.cpu_runtime.vectors import (
    LANES,
    float_at,
    fused,
    load32,
    stack_memory,
    store32,
    zeros32,
)

LINES = CHUNK * ROW  # bytes of one vector for each token of a chunk
MATRIX = CHUNK * CHUNK * 4
# What is noted down of a chunk, for 16 channels: rows (c, 16), and the decay over the chunk.
LOG2, FROM_START, TO_END, RECEPTANCE, KEYS, GRAD_R, GRAD_K, CROSSING, WHOLE = (LINES * place for place in range(9))
NOTED = WHOLE + ROW
# Memory for operands of one chunk: not on the stack, where compilers would keep copies of it spread over vectors.
WORKING = 4 * LINES


@inlined
def begin_segment(v, grad, tokens, stride, storage, values, gradients, grad_values, matches, scores, size):  # type: ignore[no-untyped-def]
    """Values and gradients (n · c, N) as float32, B_ts of each chunk, and zeros for what will be added to."""
    width = size * 4
    chunks = (tokens + CHUNK - 1) // CHUNK
    fill(grad_values, chunks * CHUNK * width)
    fill(scores, chunks * MATRIX)
    fill(values + tokens * width, (chunks * CHUNK - tokens) * width)
    fill(gradients + tokens * width, (chunks * CHUNK - tokens) * width)
    for token in range(tokens):
        for block in range(size // LANES):
            place, here = token * width + block * ROW, token * stride + block * LANES * bytes_of(storage)
            store32(values + place, load(v + here, storage))
            store32(gradients + place, load(grad + here, storage))
    for chunk in range(chunks):
        rows = chunk * CHUNK * width
        write_matches(
            gradients + rows, values + rows, min(tokens - chunk * CHUNK, CHUNK), matches + chunk * MATRIX, size
        )


@inlined
def read_chunk(r, k, w, bonus, tokens, stride, w_stride, storage, w_storage, matches, scores, noted):  # type: ignore[no-untyped-def]
    """Note down 16 channels of a chunk and what its pairs add; returns what they add to the gradient of the bonus."""
    decays = stack_memory(512)
    fill(noted, NOTED)
    total = chunk_decays(w, w_stride, w_storage, tokens, noted, noted + FROM_START, noted + TO_END)
    store32(noted + WHOLE, exact_decay_of(total))
    for token in range(tokens):
        line = token * ROW
        store32(noted + RECEPTANCE + line, load(r + token * stride, storage))
        store32(noted + KEYS + line, load(k + token * stride, storage))
        store32(decays + line, decay_of(load32(noted + line)))
    return add_pairs(
        noted + RECEPTANCE, noted + KEYS, decays, bonus, tokens, matches, scores,
        noted + GRAD_R, noted + GRAD_K, noted + CROSSING,
    )  # fmt: skip


@inlined
def weigh(noted, decays, receptances, keys):  # type: ignore[no-untyped-def]
    """Receptances and keys (c, 16) times the decays to one border of the chunk."""
    for line in range(0, LINES, ROW):
        decay = load32(noted + decays + line)
        store32(receptances + line, load32(noted + RECEPTANCE + line) * decay)
        store32(keys + line, load32(noted + KEYS + line) * decay)


@inlined
def reach_over_border(values, gradients, state, asked, noted, decays, passing, size):  # type: ignore[no-untyped-def]
    """Gradients of receptances and keys from the tokens beyond one border.

    passing (c, 16) is what they add to the sums over the pairs of each token, for all between it and the border.
    """
    width = size * 4
    for first in range(0, CHUNK, TILE):
        from_sources = add_products(empty_tile(), gradients + first * width, width, 4, state, ROW, size)
        store_tile(passing + first * ROW, ROW, from_sources)
        to_targets = add_products(empty_tile(), values + first * width, width, 4, asked, ROW, size)
        store_tile(passing + LINES + first * ROW, ROW, to_targets)
    for line in range(0, LINES, ROW):
        decay = load32(noted + decays + line)
        grad_r, grad_k = load32(passing + line) * decay, load32(passing + LINES + line) * decay
        add_to(noted + GRAD_R + line, grad_r)
        add_to(noted + GRAD_K + line, grad_k)
        passed = load32(noted + RECEPTANCE + line) * grad_r
        store32(passing + line, fused(load32(noted + KEYS + line), grad_k, passed))


@inlined
def add_grad_values(grad_values, keys, turned, size):  # type: ignore[no-untyped-def]
    """grad_values (c, N) += keys (c, 16) @ turned, the asked state in blocks of 16 values, each (16, 16)."""
    width = size * 4
    for block in range(size // LANES):
        for first in range(0, CHUNK, TILE):
            place = grad_values + first * width + block * ROW
            tile = load_tile(place, width)
            tile = add_products(tile, keys + first * ROW, ROW, 4, turned + block * LANES * ROW, ROW, LANES)
            store_tile(place, width, tile)


@inlined
def advance_turned(turned, whole, receptances, gradients, size):  # type: ignore[no-untyped-def]
    """The turned asked state over one chunk: whole[j] turned[j] + Σ_t receptances[t, j] gradients[t]."""
    width = size * 4
    for block in range(size // LANES):
        for row in range(0, LANES, TILE):
            here, keep = turned + (block * LANES + row) * ROW, whole + row * 4
            a, b, c, d = load_tile(here, ROW)
            tile = a * float_at(keep), b * float_at(keep + 4), c * float_at(keep + 8), d * float_at(keep + 12)
            tile = add_products(tile, receptances + row * 4, 4, ROW, gradients + block * ROW, width, CHUNK)
            store_tile(here, ROW, tile)


@inlined
def passing_over(past, asked_after, future, asked_before, size):  # type: ignore[no-untyped-def]
    """Sum over the pairs with one token before a chunk and one after it, but for the decay over the chunk."""
    onward, backward = zeros32(), zeros32()
    for place in range(0, size * ROW, ROW):
        onward = fused(load32(past + place), load32(asked_after + place), onward)
        backward = fused(load32(future + place), load32(asked_before + place), backward)
    return onward + backward
