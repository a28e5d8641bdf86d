# mypy: ignore-errors
"""How sums reach other chunks and other spans in Bi-WKV's Triton kernels.

Chunks of a span exchange sums in registers. Spans of an image do so through `totals` (spans, 5, C) int32, floats'
bits: the natural logarithm of their scale, the sums right after the span and those right before it, two each. Spans may
be written in an earlier launch or, where all programs of an image run at the same time, in the same one: every number
then stands for itself, and is there as soon as it is not UNWRITTEN.
"""

import triton
import triton.language as tl

from vrwkv.ops.bi_wkv.triton_channels import bounded_exp2, load_channels, store_channels
from vrwkv.ops.triton_arithmetic import LN_2, LOG2_E, exp2

NOTHING = tl.constexpr(-1e30)  # scale of an empty sum: finite, so that the difference of two of them is 0 and not NaN
UNWRITTEN_BITS = 0x7FABCDEF  # a NaN that no arithmetic makes
UNWRITTEN = tl.constexpr(UNWRITTEN_BITS)
AFTER, BEFORE = tl.constexpr(1), tl.constexpr(3)  # where a span's sums stand in `totals`, those right after it first


@triton.jit
def add_after(
    first, second, first_before, second_before, next_first, next_second, next_first_before, next_second_before
):
    """Two sums over some lanes, and both without the last lane, with those of further lanes added."""
    return first + next_first, second + next_second, first + next_first_before, second + next_second_before


@triton.jit
def add_four(a, b, c, d, other_a, other_b, other_c, other_d):
    """Four sums at once."""
    return a + other_a, b + other_b, c + other_c, d + other_d


@triton.jit
def over_rows(a, b, c, d):
    """Four values summed over rows, the rows kept as one."""
    a, b, c, d = tl.reduce((a, b, c, d), 0, add_four)
    return tl.expand_dims(a, 0), tl.expand_dims(b, 0), tl.expand_dims(c, 0), tl.expand_dims(d, 0)


@triton.jit
def largest_of_rows(x):
    """The maximum over rows, the rows kept as one."""
    return tl.expand_dims(tl.max(x, 0), 0)


@triton.jit
def distances(w, chunk, chunks, LENGTH: tl.constexpr):
    """Factors by which sums fade: from each chunk to the last that has tokens, and to the first; and back from there.

    Sums are taken as seen from the ends of the span, where they are comparable, and then seen from each chunk. The way
    back ends at the chunk's other side: sums of the chunks before it are wanted where it begins.
    """
    fade = w * LENGTH
    place = tl.expand_dims(tl.minimum(chunk, chunks - 1).to(tl.float32), 2)
    last = (chunks - 1).to(tl.float32)
    from_last = bounded_exp2(fade * (last + 1.0 - place))
    from_first = bounded_exp2(fade * (place + 1.0))
    return exp2(fade * (place - last)), exp2(-fade * place), from_last, from_first


@triton.jit
def exchange_in_span(end_first, end_second, start_first, start_second, to_last, to_first, from_last, from_first):
    """What each chunk gets from the chunks before and after it, given what each hands to its end and to its start.

    Returns:
        Two sums from before, two from after, without the chunk itself (nothing is subtracted); then the sums that the
        whole span hands on, to its end in the last row and to its start in the first.
    """
    nothing = tl.zeros_like(end_first)
    a, b, before_first, before_second = tl.associative_scan(
        (end_first * to_last, end_second * to_last, nothing, nothing), 0, add_after
    )
    c, d, after_first, after_second = tl.associative_scan(
        (start_first * to_first, start_second * to_first, nothing, nothing), 0, add_after, reverse=True
    )
    return (
        before_first * from_last,
        before_second * from_last,
        after_first * from_first,
        after_second * from_first,
        a,
        b,
        c,
        d,
    )


@triton.jit
def _publish_number(place, lane, chosen, value, WIDTH: tl.constexpr):
    bits = value.to(tl.int32, bitcast=True)
    store_channels(place, lane, chosen, tl.where(bits == UNWRITTEN, 0x7FFFFFFF, bits), WIDTH)


@triton.jit
def publish(
    totals, slot, channels, lane, exists, chunk, scale, end_first, end_second, start_first, start_second,
    CHUNKS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write what the span hands on, as `exchange_in_span` returns it."""
    place = totals + slot.to(tl.int64) * 5 * channels
    first, last = exists & (chunk == 0), exists & (chunk == CHUNKS - 1)
    _publish_number(place, lane, first, tl.zeros_like(end_first) + scale, WIDTH)
    _publish_number(place + AFTER * channels, lane, last, end_first, WIDTH)
    _publish_number(place + (AFTER + 1) * channels, lane, last, end_second, WIDTH)
    _publish_number(place + BEFORE * channels, lane, first, start_first, WIDTH)
    _publish_number(place + (BEFORE + 1) * channels, lane, first, start_second, WIDTH)


@triton.jit
def _read(place, chosen, WIDTH: tl.constexpr):
    if WIDTH == 2:
        low = tl.load(place, mask=chosen, other=0, volatile=True)
        return tl.join(low, tl.load(place + 1, mask=chosen, other=0, volatile=True))
    else:
        return tl.expand_dims(tl.load(place, mask=chosen, other=0, volatile=True), 2)


@triton.jit
def _unwritten(a, b, c):
    missing = tl.where(a == UNWRITTEN, 1, 0) + tl.where(b == UNWRITTEN, 1, 0) + tl.where(c == UNWRITTEN, 1, 0)
    return tl.sum(missing)


@triton.jit
def from_other_spans(
    totals, first_slot, span, spans, channels, lane, exists, decay, count, own_scale, growth,
    SPAN: tl.constexpr, TOGETHER: tl.constexpr, WIDTH: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """A scale at which no weight of the span or of others exceeds 1, and the others' sums before and after the span.

    ADJOINT: sums of 1 / weights, at the negative of their scales; `own_scale` then stays as it is, since they are
    multiplied with weights at that scale. Exponents are float64: over an image, weights may grow by e^100 and more.
    """
    w = load_channels(decay, lane, exists, WIDTH).to(tl.float64) * LOG2_E / tl.maximum(count, 1).to(tl.float64)
    nothing = tl.zeros_like(own_scale)
    place = totals + first_slot.to(tl.int64) * 5 * channels
    before_first, before_second, after_first, after_second = nothing, nothing, nothing, nothing
    scale = own_scale
    for start in range(0, spans, TOGETHER):
        other = start + tl.arange(0, TOGETHER)[:, None]
        chosen = (other < spans) & (other != span) & exists
        earlier = other < span
        at = place + other * 5 * channels + WIDTH * lane
        sums = at + tl.where(earlier, AFTER, BEFORE) * channels
        scale_bits = _read(at, chosen, WIDTH)
        first_bits, second_bits = _read(sums, chosen, WIDTH), _read(sums + channels, chosen, WIDTH)
        while _unwritten(scale_bits, first_bits, second_bits) > 0:
            scale_bits = _read(at, chosen, WIDTH)
            first_bits, second_bits = _read(sums, chosen, WIDTH), _read(sums + channels, chosen, WIDTH)
        distance = (tl.where(earlier, span - 1 - other, other - span - 1) * SPAN).to(tl.float32)
        far = w * tl.expand_dims(distance, 2).to(tl.float64)
        chosen, earlier = tl.expand_dims(chosen, 2), tl.expand_dims(earlier, 2)
        other_scale = scale_bits.to(tl.float32, bitcast=True)
        if ADJOINT:
            exponent = (scale.to(tl.float64) - other_scale) * LOG2_E - far
            gain = tl.where(chosen, exp2(exponent.to(tl.float32)), 0.0)
        else:
            other_scale = tl.where(chosen, other_scale, NOTHING)
            common = tl.maximum(scale, largest_of_rows((other_scale - far * LN_2).to(tl.float32)) + growth)
            keep = exp2((scale - common) * LOG2_E)
            before_first *= keep
            before_second *= keep
            after_first *= keep
            after_second *= keep
            scale = common
            exponent = (other_scale.to(tl.float64) - scale) * LOG2_E - far
            gain = exp2(exponent.to(tl.float32))
        first = gain * first_bits.to(tl.float32, bitcast=True)
        second = gain * second_bits.to(tl.float32, bitcast=True)
        a, b, c, d = over_rows(
            tl.where(earlier, first, 0.0),
            tl.where(earlier, second, 0.0),
            tl.where(earlier, 0.0, first),
            tl.where(earlier, 0.0, second),
        )
        before_first += a
        before_second += b
        after_first += c
        after_second += d
    return scale, before_first, before_second, after_first, after_second


@triton.jit
def add_other_spans(
    before_first, before_second, after_first, after_second, to_last, to_first,
    totals, first_slot, span, spans, channels, lane, exists, decay, count, own_scale, growth,
    SPAN: tl.constexpr, TOGETHER: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The new scale, and the states before and after each chunk with what other spans hand on."""
    scale, a, b, c, d = from_other_spans(
        totals, first_slot, span, spans, channels, lane, exists, decay, count, own_scale, growth,
        SPAN, TOGETHER, WIDTH, False,
    )  # fmt: skip
    own = exp2((own_scale - scale) * LOG2_E)
    return (
        scale,
        before_first * own + to_first * a,
        before_second * own + to_first * b,
        after_first * own + to_last * c,
        after_second * own + to_last * d,
    )
