"""What every Triton kernel of Bi-WKV6 does first: find its chunk, load tiles of it, take decays to borders.

A chunk is LENGTH (a power of two) tokens of one image. Letters: t tokens of the chunk, j channels of the keys (rows of
a state), i channels of the values (its columns).
"""

# mypy: allow-untyped-defs
import triton
import triton.language as tl

from vrwkv.ops.bi_wkv6.triton_products import add_chosen_rows

LARGEST_EXPONENT = tl.constexpr(60.0)  # exp(-exp(60)) is 0 in float32; beyond 88 exp itself overflows


@triton.jit
def locate_chunk(chunk, bounds, tokens, chunks_per_image, LENGTH: tl.constexpr, PACKED: tl.constexpr):
    """First token (int64, counted over the batch) and number of tokens of a chunk; none for a spare one.

    Packed images have a table, `bounds` (chunks, 2) int64; the images of a batch are cut alike.
    """
    if PACKED:
        first = tl.load(bounds + 2 * chunk)
        count = tl.load(bounds + 2 * chunk + 1)
    else:
        start = (chunk % chunks_per_image) * LENGTH
        first = (chunk // chunks_per_image).to(tl.int64) * tokens + start
        count = tl.minimum(LENGTH, tokens - start).to(tl.int64)
    return first, count


@triton.jit
def token_tile(count, heads, channel, SIZE: tl.constexpr, LENGTH: tl.constexpr):
    """Offsets (t, channels) from a head's part of the chunk's first token in (B, T, H, SIZE), and which of them exist.

    They fit 32 bits, unlike where the chunk begins: `first_element`.
    """
    token = tl.arange(0, LENGTH)
    return token[:, None] * (heads * SIZE) + channel[None, :], (token < count)[:, None] & (channel < SIZE)[None, :]


@triton.jit
def first_element(first, heads, head, SIZE: tl.constexpr):
    """Where the head's part of token `first` begins in (B, T, H, SIZE), int64."""
    return (first * heads + head) * SIZE


@triton.jit
def load_float(pointer, offsets, mask):
    """A tile in float32, zero where masked."""
    return tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_log_decay(w, offsets, mask):
    """log D = -exp(w), zero where masked: tokens that are not there decay nothing."""
    raw = load_float(w, offsets, mask)
    raw = tl.where(raw > LARGEST_EXPONENT, LARGEST_EXPONENT, raw)  # tl.minimum would drop NaN
    return tl.where(mask, -tl.exp(raw), 0.0)


@triton.jit
def tokens_before(LENGTH: tl.constexpr):
    """(t, m) whether token m comes before token t."""
    token = tl.arange(0, LENGTH)
    return token[None, :] < token[:, None]


@triton.jit
def tokens_after(LENGTH: tl.constexpr):
    """(t, m) whether token m comes after token t."""
    token = tl.arange(0, LENGTH)
    return token[None, :] > token[:, None]


@triton.jit
def tokens_on_the_way(level, LENGTH: tl.constexpr):
    """(t, m) whether token m lies strictly between t and the border of t's two halves of 2^level tokens.

    As an interval for each t, like the choices below: two comparisons an element.
    """
    token = tl.arange(0, LENGTH)
    border = ((token >> level) | 1) << level
    behind = token >= border
    begin, end = tl.where(behind, border, token + 1), tl.where(behind, token, border)
    return (token[None, :] >= begin[:, None]) & (token[None, :] < end[:, None])


@triton.jit
def tokens_that_pass(level, LENGTH: tl.constexpr):
    """(m, t) whether token m lies strictly between t and the border: `tokens_on_the_way`, transposed."""
    token = tl.arange(0, LENGTH)
    half = 1 << level
    border = ((token >> level) | 1) << level
    behind = token >= border
    begin, end = tl.where(behind, token + 1, border - half), tl.where(behind, border + half, token)
    return (token[None, :] >= begin[:, None]) & (token[None, :] < end[:, None])


@triton.jit
def tokens_opposite(level, LENGTH: tl.constexpr):
    """(t, s) whether two tokens lie on the two sides of a border of halves of 2^level tokens."""
    token = tl.arange(0, LENGTH)
    begin = ((token >> level) ^ 1) << level
    return (token[None, :] >= begin[:, None]) & (token[None, :] < (begin + (1 << level))[:, None])


@triton.jit
def decay_from_start(log_decay, LENGTH: tl.constexpr, FULL: tl.constexpr):
    """(t, j) decay over the tokens of the chunk before each token."""
    return tl.exp(add_chosen_rows(None, tokens_before(LENGTH), log_decay, FULL))


@triton.jit
def decay_to_end(log_decay, LENGTH: tl.constexpr, FULL: tl.constexpr):
    """(t, j) decay over the tokens of the chunk after each token."""
    return tl.exp(add_chosen_rows(None, tokens_after(LENGTH), log_decay, FULL))


@triton.jit
def decay_to_border(log_decay, level, LENGTH: tl.constexpr, FULL: tl.constexpr):
    """(t, j) decay between each token and the border of its two halves of 2^level tokens."""
    return tl.exp(add_chosen_rows(None, tokens_on_the_way(level, LENGTH), log_decay, FULL))


@triton.jit
def load_state(state, row, column, SIZE: tl.constexpr):
    """A tile (j, i) of the state (SIZE, SIZE) that `state` points to, zero outside."""
    inside = (row < SIZE)[:, None] & (column < SIZE)[None, :]
    return tl.load(state + row[:, None] * SIZE + column[None, :], mask=inside, other=0.0)
