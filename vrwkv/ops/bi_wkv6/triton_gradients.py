"""Triton kernel of Bi-WKV6: gradients in r, k, w and u; README.md derives them, chunked.py says them in plain torch."""

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
    tokens_after,
    tokens_before,
    tokens_opposite,
    tokens_that_pass,
)
from vrwkv.ops.bi_wkv6.triton_products import add_chosen_rows, add_product, to_type


@triton.jit
def gradients_inside_chunk(
    r,
    k,
    log_decay,
    match,
    LEVELS: tl.constexpr,
    LENGTH: tl.constexpr,
    FULL: tl.constexpr,
    FITS: tl.constexpr,
):
    """Of all pairs of different tokens of the chunk: gradients in r and k, and what crosses each token, all (t, j).

    match (t, s) = g_t · v_s is the gradient of the scores.
    """
    neighbours = tl.where(tokens_opposite(0, LENGTH), match, 0.0)
    grad_r = add_product(None, neighbours, k, False, FITS, FULL)
    grad_k = add_product(None, tl.trans(neighbours), r, False, FITS, FULL)
    crossing = tl.zeros_like(r)
    for level in range(1, LEVELS):
        to_border = decay_to_border(log_decay, level, LENGTH, FULL)
        targets, sources = r * to_border, k * to_border
        parted = tl.where(tokens_opposite(level, LENGTH), match, 0.0)
        grad_targets = add_product(None, parted, sources, False, False, FULL, REMAINDERS=True)
        grad_sources = add_product(None, tl.trans(parted), targets, False, False, FULL, REMAINDERS=True)
        grad_r += grad_targets * to_border
        grad_k += grad_sources * to_border
        weight = targets * grad_targets + sources * grad_sources
        crossing = add_chosen_rows(crossing, tokens_that_pass(level, LENGTH), weight, FULL)
    return grad_r, grad_k, crossing


@triton.jit
def chunk_gradients_kernel(
    grad,
    r,
    k,
    v,
    w,
    u,
    states,
    asked,
    grad_r,
    grad_k,
    grad_w,
    partial_u,
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
    """Gradients of ROWS channels of the keys, one program per (chunk, head, ROWS channels).

    grad, r, k, v, w (B, T, H, SIZE), u (H, SIZE), states and their adjoints `asked` (2, chunks, H, SIZE, SIZE)
    -> grad_r, grad_k, grad_w like r, k, w; partial_u (chunks, H, SIZE), zero beforehand, each chunk's part of u's.
    """
    chunk, head = tl.program_id(0), tl.program_id(1)
    first, count = locate_chunk(chunk, bounds, tokens, chunks_per_image, LENGTH, PACKED)
    if count == 0:
        return
    start = first_element(first, heads, head, SIZE)
    place = chunk.to(tl.int64) * heads + head
    past, asked_before = states + place * (SIZE * SIZE), asked + place * (SIZE * SIZE)
    direction = tl.cast(chunks, tl.int64) * heads * (SIZE * SIZE)
    column = tl.arange(0, WIDTH)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    value_offsets, value_mask = token_tile(count, heads, column, SIZE, LENGTH)
    g = load_float(grad + start, value_offsets, value_mask)
    values = load_float(v + start, value_offsets, value_mask)
    offsets, mask = token_tile(count, heads, row, SIZE, LENGTH)
    receptance = load_float(r + start, offsets, mask)
    keys = load_float(k + start, offsets, mask)
    log_decay = load_log_decay(w + start, offsets, mask)

    # Pairs of which one token is in another chunk. A token's decay scales those that it lies strictly between: of later
    # tokens of the chunk with the past, of earlier ones with the future, and of the past with the future.
    from_start = decay_from_start(log_decay, LENGTH, FULL)
    state, adjoint = load_state(past, row, column, SIZE), load_state(asked_before + direction, row, column, SIZE)
    through = tl.sum(state * adjoint, 1)
    to_end = decay_to_end(log_decay, LENGTH, FULL)
    r_past = from_start * add_product(None, g, tl.trans(state), FITS, False, FULL)
    k_future = to_end * add_product(None, values, tl.trans(adjoint), FITS, False, FULL)
    state, adjoint = load_state(past + direction, row, column, SIZE), load_state(asked_before, row, column, SIZE)
    through += tl.sum(state * adjoint, 1)
    r_future = to_end * add_product(None, g, tl.trans(state), FITS, False, FULL)
    k_past = from_start * add_product(None, values, tl.trans(adjoint), FITS, False, FULL)
    with_past, with_future = receptance * r_past + keys * k_past, receptance * r_future + keys * k_future
    crossing = add_chosen_rows(None, tokens_after(LENGTH), with_past, FULL)
    crossing = add_chosen_rows(crossing, tokens_before(LENGTH), with_future, FULL)
    crossing += (tl.exp(tl.sum(log_decay, 0)) * through)[None, :]

    match = add_product(None, g, tl.trans(values), FITS, FITS, FULL)
    r_inside, k_inside, inside = gradients_inside_chunk(receptance, keys, log_decay, match, LEVELS, LENGTH, FULL, FITS)
    own_match = tl.sum(g * values, 1)[:, None]
    bonus = tl.load(u + head * SIZE + row, mask=row < SIZE, other=0.0).to(tl.float32)[None, :]
    r_total = r_past + r_future + r_inside + own_match * keys * bonus
    k_total = k_past + k_future + k_inside + own_match * receptance * bonus
    tl.store(grad_r + start + offsets, to_type(r_total, grad_r.dtype.element_ty), mask=mask)
    tl.store(grad_k + start + offsets, to_type(k_total, grad_k.dtype.element_ty), mask=mask)
    w_total = (crossing + inside) * log_decay
    tl.store(grad_w + start + offsets, to_type(w_total, grad_w.dtype.element_ty), mask=mask)
    own_bonus = tl.sum(receptance * keys * own_match, 0)
    tl.store(partial_u + place * SIZE + row, own_bonus, mask=row < SIZE)
