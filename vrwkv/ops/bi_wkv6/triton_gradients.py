"""Triton kernel of Bi-WKV6: gradients in r, k, w and u; README.md derives them, chunked.py says them in plain torch."""

# mypy: allow-untyped-defs
import triton
import triton.language as tl

from vrwkv.ops.bi_wkv6.triton_products import add_chosen, add_product, to_type
from vrwkv.ops.bi_wkv6.triton_tokens import (
    decay_from_start,
    decay_to_border,
    decay_to_end,
    first_element,
    load_float,
    load_log_decay,
    locate_span,
    token_tile,
    tokens_after,
    tokens_before,
    tokens_opposite,
    tokens_that_pass,
)
from vrwkv.ops.triton_arithmetic import LN_2, exp2


@triton.jit
def gradients_inside_tile(
    r,
    k,
    log_decay,
    match,
    LEVELS: tl.constexpr,
    LENGTH: tl.constexpr,
    INPUT_TERMS: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Of all pairs of different tokens of the tile: gradients in r and k, and what crosses each token, all (j, t).

    match (s, t) = v_s · g_t is the gradient of the scores.
    """
    neighbours = tl.where(tokens_opposite(0, LENGTH), match, 0.0)
    grad_r = add_product(None, k, neighbours, INPUT_TERMS, TERMS, TERMS)
    grad_k = add_product(None, r, tl.trans(neighbours), INPUT_TERMS, TERMS, TERMS)
    crossing = tl.zeros_like(r)
    for level in tl.static_range(1, LEVELS):
        to_border = decay_to_border(log_decay, level, LENGTH, TERMS)
        targets, sources = r * to_border, k * to_border
        parted = tl.where(tokens_opposite(level, LENGTH), match, 0.0)
        grad_targets = add_product(None, sources, parted, TERMS, TERMS, TERMS)
        grad_sources = add_product(None, targets, tl.trans(parted), TERMS, TERMS, TERMS)
        grad_r += grad_targets * to_border
        grad_k += grad_sources * to_border
        weight = targets * grad_targets + sources * grad_sources
        crossing = add_chosen(crossing, weight, tokens_that_pass(level, LENGTH), TERMS)
    return grad_r, grad_k, crossing


@triton.jit
def span_gradients_kernel(
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
    spans,
    spans_per_image,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LENGTH: tl.constexpr,
    LEVELS: tl.constexpr,
    PACKED: tl.constexpr,
    INPUT_TERMS: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Gradients of ROWS channels of the keys, one program per (span of LENGTH tokens, head, ROWS channels).

    grad, r, k, v, w (B, T, H, SIZE), u (H, SIZE), states and their adjoints `asked` (2, spans, H, SIZE, SIZE)
    -> grad_r, grad_k, grad_w like r, k, w; partial_u (spans, H, SIZE), zero beforehand, each span's part of u's.
    """
    span, head = tl.program_id(0), tl.program_id(1)
    first, count = locate_span(span, bounds, tokens, LENGTH, spans_per_image, PACKED)
    if count == 0:
        return
    start = first_element(first, heads, head, SIZE)
    place = span.to(tl.int64) * heads + head
    past, asked_before = states + place * (SIZE * SIZE), asked + place * (SIZE * SIZE)
    direction = tl.cast(spans, tl.int64) * heads * (SIZE * SIZE)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)

    # Over all channels of the values, some at a time: what states of both sides say of each token, and `match`.
    r_past = tl.zeros((ROWS, LENGTH), tl.float32)
    r_future = tl.zeros((ROWS, LENGTH), tl.float32)
    k_past = tl.zeros((ROWS, LENGTH), tl.float32)
    k_future = tl.zeros((ROWS, LENGTH), tl.float32)
    through = tl.zeros((ROWS,), tl.float32)
    match = tl.zeros((LENGTH, LENGTH), tl.float32)
    own_match = tl.zeros((LENGTH,), tl.float32)
    for first_column in range(0, SIZE, COLUMNS):
        column = first_column + tl.arange(0, COLUMNS)
        offsets, mask = token_tile(column, count, heads, SIZE, LENGTH)
        g, values = load_float(grad + start, offsets, mask), load_float(v + start, offsets, mask)
        match = add_product(match, tl.trans(values), g, INPUT_TERMS, INPUT_TERMS, TERMS)
        own_match += tl.sum(g * values, 0)
        offsets = row[:, None] * SIZE + column[None, :]
        mask = (row < SIZE)[:, None] & (column < SIZE)[None, :]
        state = tl.load(past + offsets, mask=mask, other=0.0)
        adjoint = tl.load(asked_before + direction + offsets, mask=mask, other=0.0)
        r_past = add_product(r_past, state, g, TERMS, INPUT_TERMS, TERMS)
        k_future = add_product(k_future, adjoint, values, TERMS, INPUT_TERMS, TERMS)
        through += tl.sum(state * adjoint, 1)
        state = tl.load(past + direction + offsets, mask=mask, other=0.0)
        adjoint = tl.load(asked_before + offsets, mask=mask, other=0.0)
        r_future = add_product(r_future, state, g, TERMS, INPUT_TERMS, TERMS)
        k_past = add_product(k_past, adjoint, values, TERMS, INPUT_TERMS, TERMS)
        through += tl.sum(state * adjoint, 1)

    offsets, mask = token_tile(row, count, heads, SIZE, LENGTH)
    receptance = load_float(r + start, offsets, mask)
    keys = load_float(k + start, offsets, mask)
    log_decay = load_log_decay(w + start, offsets, mask)
    # Pairs of which one token is in another span. A token's decay scales those that it lies strictly between: of later
    # tokens of the span with the past, of earlier ones with the future, and of the past with the future.
    from_start = decay_from_start(log_decay, LENGTH, TERMS)
    r_past, k_past = r_past * from_start, k_past * from_start
    crossing = add_chosen(None, receptance * r_past + keys * k_past, tokens_after(LENGTH), TERMS)
    to_end = decay_to_end(log_decay, LENGTH, TERMS)
    r_future, k_future = r_future * to_end, k_future * to_end
    crossing = add_chosen(crossing, receptance * r_future + keys * k_future, tokens_before(LENGTH), TERMS)
    crossing += (exp2(tl.sum(log_decay, 1)) * through)[:, None]
    own = own_match[None, :]
    bonus = tl.load(u + head * SIZE + row, mask=row < SIZE, other=0.0).to(tl.float32)[:, None]
    r_total = r_past + r_future + own * keys * bonus
    k_total = k_past + k_future + own * receptance * bonus
    tl.store(partial_u + place * SIZE + row, tl.sum(receptance * keys * own, 1), mask=row < SIZE)

    r_inside, k_inside, inside = gradients_inside_tile(
        receptance, keys, log_decay, match, LEVELS, LENGTH, INPUT_TERMS, TERMS
    )
    tl.store(grad_r + start + offsets, to_type(r_total + r_inside, grad_r.dtype.element_ty), mask=mask)
    tl.store(grad_k + start + offsets, to_type(k_total + k_inside, grad_k.dtype.element_ty), mask=mask)
    w_total = (crossing + inside) * (log_decay * LN_2)
    tl.store(grad_w + start + offsets, to_type(w_total, grad_w.dtype.element_ty), mask=mask)
