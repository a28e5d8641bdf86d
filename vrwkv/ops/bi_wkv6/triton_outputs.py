"""Triton kernel of Bi-WKV6: outputs, by a walk over the tokens of a span in either direction."""

# mypy: allow-untyped-defs
import triton
import triton.language as tl

from vrwkv.ops.bi_wkv6.triton_products import add_product, to_type
from vrwkv.ops.bi_wkv6.triton_states import state_tile
from vrwkv.ops.bi_wkv6.triton_tokens import (
    decay_from_start,
    decay_to_border,
    decay_to_end,
    first_element,
    load_float,
    load_log_decay,
    locate_span,
    token_tile,
    tokens_opposite,
)
from vrwkv.ops.triton_arithmetic import exp2


@triton.jit
def block_scores(
    r, k, log_decay, LEVELS: tl.constexpr, LENGTH: tl.constexpr, INPUT_TERMS: tl.constexpr, TERMS: tl.constexpr
):
    """(s, t) Σ_j k_s W_ts r_t for all pairs of two different tokens of the block, both orders; r, k (j, t).

    Each pair is counted at the level of the halves that part it; neighbours of level 0 have nothing between them.
    """
    product = add_product(None, tl.trans(k), r, INPUT_TERMS, INPUT_TERMS, TERMS)
    scores = tl.where(tokens_opposite(0, LENGTH), product, 0.0)
    for level in tl.static_range(1, LEVELS):
        to_border = decay_to_border(log_decay, level, LENGTH, TERMS)
        product = add_product(None, tl.trans(k * to_border), r * to_border, TERMS, TERMS, TERMS)
        scores += tl.where(tokens_opposite(level, LENGTH), product, 0.0)
    return scores


@triton.jit
def load_state(states, place, column, row, SIZE: tl.constexpr):
    """A tile (i, j) of the state number `place`; without `states` (None), the one of no tokens."""
    if states is None:
        return tl.zeros((column.shape[0], row.shape[0]), tl.float32)
    else:
        offsets, mask = state_tile(column, row, SIZE)
        return tl.load(states + place * (SIZE * SIZE) + offsets, mask=mask, other=0.0)


@triton.jit
def span_outputs_kernel(
    r,
    k,
    v,
    w,
    u,
    states,
    from_future,
    y,
    bounds,
    tokens,
    heads,
    spans,
    length,
    spans_per_image,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    LENGTH: tl.constexpr,
    LEVELS: tl.constexpr,
    PACKED: tl.constexpr,
    INPUT_TERMS: tl.constexpr,
    TERMS: tl.constexpr,
):
    """y_t = Σ_s A_ts v_s for COLUMNS channels of the values; one program per (span, head, columns).

    r, k, v, w (B, T, H, SIZE), u (H, SIZE), states (2, spans, H, SIZE, SIZE) or None -> y (B, T, H, SIZE).
    from_future (B, T, H, SIZE) float32 holds, from one walk to the next, what later blocks of tokens add.
    W_ts = W_st, so that the gradient in v is this very kernel with r and k exchanged, on the gradient in y.
    """
    span, head = tl.program_id(0), tl.program_id(1)
    first, count = locate_span(span, bounds, tokens, length, spans_per_image, PACKED)
    if count == 0:
        return
    place = span.to(tl.int64) * heads + head
    row = tl.arange(0, WIDTH)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)

    state = load_state(states, place + tl.cast(spans, tl.int64) * heads, column, row, SIZE)
    blocks = tl.cdiv(count, LENGTH)
    for walked in range(0, blocks):
        token = (blocks - 1 - walked) * LENGTH
        start = first_element(first + token, heads, head, SIZE)
        offsets, mask = token_tile(row, count - token, heads, SIZE, LENGTH)
        value_offsets, value_mask = token_tile(column, count - token, heads, SIZE, LENGTH)
        log_decay = load_log_decay(w + start, offsets, mask)
        targets = load_float(r + start, offsets, mask) * decay_to_end(log_decay, LENGTH, TERMS)
        sources = load_float(k + start, offsets, mask) * decay_from_start(log_decay, LENGTH, TERMS)
        values = load_float(v + start, value_offsets, value_mask)
        outputs = add_product(None, state, targets, TERMS, TERMS, TERMS)
        tl.store(from_future + start + value_offsets, outputs, mask=value_mask)
        state *= exp2(tl.sum(log_decay, 1))[None, :]
        state = add_product(state, values, tl.trans(sources), INPUT_TERMS, TERMS, TERMS)

    tl.debug_barrier()  # each thread may read what another one wrote
    bonus = tl.load(u + head * SIZE + row, mask=row < SIZE, other=0.0).to(tl.float32)[:, None]
    state = load_state(states, place, column, row, SIZE)
    for token in range(0, count, LENGTH):
        start = first_element(first + token, heads, head, SIZE)
        offsets, mask = token_tile(row, count - token, heads, SIZE, LENGTH)
        value_offsets, value_mask = token_tile(column, count - token, heads, SIZE, LENGTH)
        log_decay = load_log_decay(w + start, offsets, mask)
        receptance, keys = load_float(r + start, offsets, mask), load_float(k + start, offsets, mask)
        values = load_float(v + start, value_offsets, value_mask)
        outputs = tl.load(from_future + start + value_offsets, mask=value_mask, other=0.0)
        outputs += tl.sum(receptance * keys * bonus, 0)[None, :] * values
        targets = receptance * decay_from_start(log_decay, LENGTH, TERMS)
        outputs = add_product(outputs, state, targets, TERMS, TERMS, TERMS)
        scores = block_scores(receptance, keys, log_decay, LEVELS, LENGTH, INPUT_TERMS, TERMS)
        outputs = add_product(outputs, values, scores, INPUT_TERMS, TERMS, TERMS)
        tl.store(y + start + value_offsets, to_type(outputs, y.dtype.element_ty), mask=value_mask)
        sources = keys * decay_to_end(log_decay, LENGTH, TERMS)
        state *= exp2(tl.sum(log_decay, 1))[None, :]
        state = add_product(state, values, tl.trans(sources), INPUT_TERMS, TERMS, TERMS)
