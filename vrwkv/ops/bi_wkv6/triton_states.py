"""Triton kernels of Bi-WKV6: the states that reach each span from both sides."""

# mypy: allow-untyped-defs
import triton
import triton.language as tl

from vrwkv.ops.bi_wkv6.triton_products import add_product
from vrwkv.ops.bi_wkv6.triton_tokens import (
    decay_from_start,
    decay_to_end,
    first_element,
    load_float,
    load_log_decay,
    locate_span,
    token_tile,
)
from vrwkv.ops.triton_arithmetic import exp2


@triton.jit
def state_tile(column, row, SIZE: tl.constexpr):
    """Offsets (i, j) into a state (SIZE, SIZE), which is kept (j, i), and which of them exist."""
    return row[None, :] * SIZE + column[:, None], (row < SIZE)[None, :] & (column < SIZE)[:, None]


@triton.jit
def span_updates_kernel(
    rows,
    columns,
    w,
    states,
    whole,
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
    PACKED: tl.constexpr,
    INPUT_TERMS: tl.constexpr,
    TERMS: tl.constexpr,
):
    """What each span adds to the states, both directions from one walk; one program per (span, head, columns).

    rows, columns, w (B, T, H, SIZE) -> states (2, spans, H, SIZE, SIZE): sums over the span's tokens of rows ⊗ columns,
    rows decayed to the end of the span (for later spans) and to its start (for earlier ones); whole (spans, H, SIZE)
    the decay over the span.
    """
    span, head = tl.program_id(0), tl.program_id(1)
    first, count = locate_span(span, bounds, tokens, length, spans_per_image, PACKED)
    if count == 0:
        return
    place = span.to(tl.int64) * heads + head
    row = tl.arange(0, WIDTH)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    later = tl.zeros((COLUMNS, WIDTH), tl.float32)
    earlier = tl.zeros((COLUMNS, WIDTH), tl.float32)
    log_whole = tl.zeros((WIDTH,), tl.float32)
    for step in range(0, count, LENGTH):
        start = first_element(first + step, heads, head, SIZE)
        offsets, mask = token_tile(row, count - step, heads, SIZE, LENGTH)
        x = load_float(rows + start, offsets, mask)
        log_decay = load_log_decay(w + start, offsets, mask)
        offsets, mask = token_tile(column, count - step, heads, SIZE, LENGTH)
        values = load_float(columns + start, offsets, mask)
        log_step = tl.sum(log_decay, 1)
        to_end = x * decay_to_end(log_decay, LENGTH, TERMS)
        from_start = x * decay_from_start(log_decay, LENGTH, TERMS) * exp2(log_whole)[:, None]
        later = add_product(later * exp2(log_step)[None, :], values, tl.trans(to_end), INPUT_TERMS, TERMS, TERMS)
        earlier = add_product(earlier, values, tl.trans(from_start), INPUT_TERMS, TERMS, TERMS)
        log_whole += log_step
    offsets, mask = state_tile(column, row, SIZE)
    direction = tl.cast(spans, tl.int64) * heads * (SIZE * SIZE)
    tl.store(states + place * (SIZE * SIZE) + offsets, later, mask=mask)
    tl.store(states + direction + place * (SIZE * SIZE) + offsets, earlier, mask=mask)
    if tl.program_id(2) == 0:
        tl.store(whole + place * SIZE + row, exp2(log_whole), mask=row < SIZE)


@triton.jit
def scan_spans_kernel(
    states,
    whole,
    first_span,
    heads,
    spans,
    spans_per_image,
    SIZE: tl.constexpr,
    PART: tl.constexpr,
    PACKED: tl.constexpr,
):
    """In place of what each span adds, the state that reaches it; one program per (image and head, part, direction).

    Elements of a state do not depend on each other, so that a part is any PART of them. Direction 0 walks the spans of
    an image forwards, 1 backwards. first_span (images + 1,) says where a packed image's spans begin.
    """
    image, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    if PACKED:
        begin = tl.load(first_span + image)
        steps = (tl.load(first_span + image + 1) - begin).to(tl.int32)
    else:
        begin = image.to(tl.int64) * spans_per_image
        steps = spans_per_image
    element = tl.program_id(1) * PART + tl.arange(0, PART)
    inside = element < SIZE * SIZE
    backwards = tl.program_id(2)
    span = begin + backwards * (steps - 1)
    states += backwards * tl.cast(spans, tl.int64) * heads * SIZE * SIZE
    state = tl.zeros((PART,), tl.float32)
    for _ in tl.range(0, steps, num_stages=4):  # what later spans add does not depend on the state: loaded ahead
        place = span * heads + head
        update = tl.load(states + place * (SIZE * SIZE) + element, mask=inside, other=0.0)
        decay = tl.load(whole + place * SIZE + element // SIZE, mask=inside, other=0.0)
        tl.store(states + place * (SIZE * SIZE) + element, state, mask=inside)
        state = decay * state + update
        span += 1 - 2 * backwards
