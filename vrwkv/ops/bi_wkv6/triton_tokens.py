"""What every Triton kernel of Bi-WKV6 does first: find its span, load tiles of it, take decays to borders.

Tiles have channels as rows and tokens as columns: sums over tokens are then products whose left factor stays in the
registers it was computed in. Letters: t, s and m tokens, j channels of the keys (rows of a state), i channels of the
values (its columns).
"""

# mypy: allow-untyped-defs
import triton
import triton.language as tl

from vrwkv.ops.bi_wkv6.triton_products import add_chosen
from vrwkv.ops.triton_arithmetic import LOG2_E, MINUS_LOG2_E, exp2

LARGEST_EXPONENT = tl.constexpr(60.0)  # exp(-exp(60)) is 0 in float32; beyond 88 exp itself overflows


@triton.jit
def locate_span(span, bounds, tokens, length, spans_per_image, PACKED: tl.constexpr):
    """First token (int64, counted over the batch) and number of tokens (int32) of a span; none for a spare one.

    Packed images have a table, `bounds` (spans, 2) int64; the images of a batch are cut alike.
    """
    if PACKED:
        first = tl.load(bounds + 2 * span)
        count = tl.load(bounds + 2 * span + 1).to(tl.int32)
    else:
        start = (span % spans_per_image) * length
        first = (span // spans_per_image).to(tl.int64) * tokens + start
        count = tl.minimum(length, tokens - start)
    return first, count


@triton.jit
def first_element(first, heads, head, SIZE: tl.constexpr):
    """Where the head's part of token `first` begins in (B, T, H, SIZE), int64."""
    return (first * heads + head) * SIZE


@triton.jit
def token_tile(channel, left, heads, SIZE: tl.constexpr, LENGTH: tl.constexpr):
    """Offsets (channels, t) of LENGTH tokens, and which of them are among the `left` ones of their span.

    From the head's part of the first of them in (B, T, H, SIZE); they fit 32 bits, unlike where it begins:
    `first_element`.
    """
    token = tl.arange(0, LENGTH)
    return token[None, :] * (heads * SIZE) + channel[:, None], (token < left)[None, :] & (channel < SIZE)[:, None]


@triton.jit
def load_float(pointer, offsets, mask):
    """A tile in float32, zero where masked."""
    return tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_log_decay(w, offsets, mask):
    """log₂ D = -exp(w) log₂ e, zero where masked: tokens that are not there decay nothing."""
    raw = load_float(w, offsets, mask)
    raw = tl.where(raw > LARGEST_EXPONENT, LARGEST_EXPONENT, raw)  # tl.minimum would drop NaN
    return tl.where(mask, MINUS_LOG2_E * exp2(raw * LOG2_E), 0.0)


@triton.jit
def tokens_before(LENGTH: tl.constexpr):
    """(m, t) whether token m comes before token t."""
    token = tl.arange(0, LENGTH)
    return token[:, None] < token[None, :]


@triton.jit
def tokens_after(LENGTH: tl.constexpr):
    """(m, t) whether token m comes after token t."""
    token = tl.arange(0, LENGTH)
    return token[:, None] > token[None, :]


@triton.jit
def tokens_on_the_way(LEVEL: tl.constexpr, LENGTH: tl.constexpr):
    """(m, t) whether token m lies strictly between t and the border of t's two halves of 2^LEVEL tokens."""
    token = tl.arange(0, LENGTH)
    border = ((token >> LEVEL) | 1) << LEVEL
    behind = token >= border
    begin, end = tl.where(behind, border, token + 1), tl.where(behind, token, border)
    return (token[:, None] >= begin[None, :]) & (token[:, None] < end[None, :])


@triton.jit
def tokens_that_pass(LEVEL: tl.constexpr, LENGTH: tl.constexpr):
    """(t, m) whether token m lies strictly between t and the border: `tokens_on_the_way`, transposed."""
    token = tl.arange(0, LENGTH)
    half: tl.constexpr = 1 << LEVEL
    border = ((token >> LEVEL) | 1) << LEVEL
    behind = token >= border
    begin, end = tl.where(behind, token + 1, border - half), tl.where(behind, border + half, token)
    return (token[:, None] >= begin[None, :]) & (token[:, None] < end[None, :])


@triton.jit
def tokens_opposite(LEVEL: tl.constexpr, LENGTH: tl.constexpr):
    """(s, t) whether two tokens lie on the two sides of a border of halves of 2^LEVEL tokens; symmetric."""
    token = tl.arange(0, LENGTH)
    begin = ((token >> LEVEL) ^ 1) << LEVEL
    return (token[:, None] >= begin[None, :]) & (token[:, None] < (begin + (1 << LEVEL))[None, :])


@triton.jit
def decay_from_start(log_decay, LENGTH: tl.constexpr, TERMS: tl.constexpr):
    """(j, t) decay over the tokens of the tile before each token."""
    return exp2(add_chosen(None, log_decay, tokens_before(LENGTH), TERMS))


@triton.jit
def decay_to_end(log_decay, LENGTH: tl.constexpr, TERMS: tl.constexpr):
    """(j, t) decay over the tokens of the tile after each token."""
    return exp2(add_chosen(None, log_decay, tokens_after(LENGTH), TERMS))


@triton.jit
def decay_to_border(log_decay, LEVEL: tl.constexpr, LENGTH: tl.constexpr, TERMS: tl.constexpr):
    """(j, t) decay between each token and the border of its two halves of 2^LEVEL tokens."""
    return exp2(add_chosen(None, log_decay, tokens_on_the_way(LEVEL, LENGTH), TERMS))
