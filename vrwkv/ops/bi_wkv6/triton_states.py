"""Triton kernels of Bi-WKV6: the states that reach each chunk from both sides."""

# mypy: allow-untyped-defs
import triton
import triton.language as tl

from vrwkv.ops.bi_wkv6.triton_chunks import (
    decay_from_start,
    decay_to_end,
    first_element,
    load_float,
    load_log_decay,
    locate_chunk,
    token_tile,
)
from vrwkv.ops.bi_wkv6.triton_products import add_product


@triton.jit
def chunk_updates_kernel(
    rows,
    columns,
    w,
    states,
    whole,
    bounds,
    tokens,
    heads,
    chunks,
    chunks_per_image,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    LENGTH: tl.constexpr,
    PACKED: tl.constexpr,
    FULL: tl.constexpr,
    FITS: tl.constexpr,
):
    """What each chunk adds to the states: one program per (chunk, head) makes both directions from one read.

    rows, columns, w (B, T, H, SIZE) -> states (2, chunks, H, SIZE, SIZE): sums over the chunk's tokens of
    rows ⊗ columns, rows decayed to the end of the chunk (for later chunks) and to its start (for earlier ones);
    whole (chunks, H, SIZE) the decay over the chunk.
    """
    chunk, head = tl.program_id(0), tl.program_id(1)
    first, count = locate_chunk(chunk, bounds, tokens, chunks_per_image, LENGTH, PACKED)
    if count == 0:
        return
    start = first_element(first, heads, head, SIZE)
    place = chunk.to(tl.int64) * heads + head
    later = states + place * (SIZE * SIZE)
    earlier = later + tl.cast(chunks, tl.int64) * heads * (SIZE * SIZE)
    column = tl.arange(0, WIDTH)
    value_offsets, value_mask = token_tile(count, heads, column, SIZE, LENGTH)
    values = load_float(columns + start, value_offsets, value_mask)
    for first_row in range(0, SIZE, ROWS):
        row = first_row + tl.arange(0, ROWS)
        offsets, mask = token_tile(count, heads, row, SIZE, LENGTH)
        x = load_float(rows + start, offsets, mask)
        log_decay = load_log_decay(w + start, offsets, mask)
        tile = row[:, None] * SIZE + column[None, :]
        inside = (row < SIZE)[:, None] & (column < SIZE)[None, :]
        decayed = tl.trans(x * decay_to_end(log_decay, LENGTH, FULL))
        tl.store(later + tile, add_product(None, decayed, values, False, FITS, FULL), mask=inside)
        decayed = tl.trans(x * decay_from_start(log_decay, LENGTH, FULL))
        tl.store(earlier + tile, add_product(None, decayed, values, False, FITS, FULL), mask=inside)
        tl.store(whole + place * SIZE + row, tl.exp(tl.sum(log_decay, 0)), mask=row < SIZE)


@triton.jit
def scan_chunks_kernel(
    states,
    whole,
    first_chunk,
    heads,
    chunks,
    chunks_per_image,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    PACKED: tl.constexpr,
):
    """In place of what each chunk adds, the state that reaches it; one program per (image and head, part, direction).

    Elements of a state do not depend on each other, so that a part is any BLOCK of them. Direction 0 walks the chunks
    of an image forwards, 1 backwards. first_chunk (images + 1,) says where a packed image's chunks begin.
    """
    image, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    if PACKED:
        begin = tl.load(first_chunk + image)
        steps = (tl.load(first_chunk + image + 1) - begin).to(tl.int32)
    else:
        begin = image.to(tl.int64) * chunks_per_image
        steps = chunks_per_image
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = element < SIZE * SIZE
    backwards = tl.program_id(2)
    chunk = begin + backwards * (steps - 1)
    states += backwards * tl.cast(chunks, tl.int64) * heads * SIZE * SIZE
    state = tl.zeros((BLOCK,), tl.float32)
    for _ in tl.range(0, steps, num_stages=4):
        place = chunk * heads + head
        update = tl.load(states + place * (SIZE * SIZE) + element, mask=inside, other=0.0)
        decay = tl.load(whole + place * SIZE + element // SIZE, mask=inside, other=0.0)
        tl.store(states + place * (SIZE * SIZE) + element, state, mask=inside)
        state = decay * state + update
        chunk += 1 - 2 * backwards
