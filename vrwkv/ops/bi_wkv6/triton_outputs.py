"""Triton kernel of Bi-WKV6: outputs, from the tokens of a chunk and the states that reach it."""

# mypy: allow-untyped-defs
import triton
import triton.language as tl

from vrwkv.ops.bi_wkv6.triton_chunks import (
    decay_from_start,
    decay_to_border,
    decay_to_end,
    first_element,
    load_float,
    load_log_decay,
    load_state,
    locate_chunk,
    token_tile,
    tokens_opposite,
)
from vrwkv.ops.bi_wkv6.triton_products import add_product, to_type


@triton.jit
def chunk_scores(r, k, log_decay, LEVELS: tl.constexpr, LENGTH: tl.constexpr, FULL: tl.constexpr, FITS: tl.constexpr):
    """(t, s) Σ_j r_t W_ts k_s over these channels, for all pairs of two different tokens of the chunk, both orders.

    Each pair is counted at the level of the halves that part it; neighbours of level 0 have nothing between them.
    """
    scores = tl.where(tokens_opposite(0, LENGTH), add_product(None, r, tl.trans(k), FITS, FITS, FULL), 0.0)
    for level in range(1, LEVELS):
        to_border = decay_to_border(log_decay, level, LENGTH, FULL)
        crossed = add_product(None, r * to_border, tl.trans(k * to_border), False, False, FULL)
        scores += tl.where(tokens_opposite(level, LENGTH), crossed, 0.0)
    return scores


@triton.jit
def chunk_outputs_kernel(
    r,
    k,
    v,
    w,
    u,
    states,
    y,
    bounds,
    tokens,
    heads,
    chunks,
    chunks_per_image,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    LENGTH: tl.constexpr,
    LEVELS: tl.constexpr,
    PACKED: tl.constexpr,
    FULL: tl.constexpr,
    FITS: tl.constexpr,
):
    """y_t = Σ_s A_ts v_s of one (chunk, head), both directions at once.

    r, k, v, w (B, T, H, SIZE), u (H, SIZE), states (2, chunks, H, SIZE, SIZE) -> y (B, T, H, SIZE).
    W_ts = W_st, so that the gradient in v is this very kernel with r and k exchanged, on the gradient in y.
    """
    chunk, head = tl.program_id(0), tl.program_id(1)
    first, count = locate_chunk(chunk, bounds, tokens, chunks_per_image, LENGTH, PACKED)
    if count == 0:
        return
    start = first_element(first, heads, head, SIZE)
    past = states + (chunk.to(tl.int64) * heads + head) * (SIZE * SIZE)
    future = past + tl.cast(chunks, tl.int64) * heads * (SIZE * SIZE)
    column = tl.arange(0, WIDTH)
    token = tl.arange(0, LENGTH)
    outputs = tl.zeros((LENGTH, WIDTH), tl.float32)
    scores = tl.zeros((LENGTH, LENGTH), tl.float32)
    for first_row in range(0, SIZE, ROWS):
        row = first_row + tl.arange(0, ROWS)
        offsets, mask = token_tile(count, heads, row, SIZE, LENGTH)
        receptance = load_float(r + start, offsets, mask)
        keys = load_float(k + start, offsets, mask)
        log_decay = load_log_decay(w + start, offsets, mask)
        bonus = tl.load(u + head * SIZE + row, mask=row < SIZE, other=0.0).to(tl.float32)
        decayed = receptance * decay_from_start(log_decay, LENGTH, FULL)
        outputs = add_product(outputs, decayed, load_state(past, row, column, SIZE), False, False, FULL)
        decayed = receptance * decay_to_end(log_decay, LENGTH, FULL)
        outputs = add_product(outputs, decayed, load_state(future, row, column, SIZE), False, False, FULL)
        own = tl.sum(receptance * keys * bonus[None, :], 1)
        scores += tl.where(token[:, None] == token[None, :], own[:, None], 0.0)
        scores += chunk_scores(receptance, keys, log_decay, LEVELS, LENGTH, FULL, FITS)
    value_offsets, value_mask = token_tile(count, heads, column, SIZE, LENGTH)
    outputs = add_product(outputs, scores, load_float(v + start, value_offsets, value_mask), False, FITS, FULL)
    tl.store(y + start + value_offsets, to_type(outputs, y.dtype.element_ty), mask=value_mask)
