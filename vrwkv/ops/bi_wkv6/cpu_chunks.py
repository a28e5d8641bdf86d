"""Parts of the compiled loops of Bi-WKV6: decays of a chunk's tokens, and products of small matrices.

Matrices whose rows a product reads are float32. States are stored in blocks of 16 columns, each (rows, 16): what a
product reads of them lies in one piece.
"""

from vrwkv.ops.bi_wkv6.cpu_plan import CHUNK
from vrwkv.ops.cpu_runtime.functions import LOG2_E, exp, exp2, exp2_64, inlined, load
from vrwkv.ops.cpu_runtime.vectors import (
    BFLOAT16,
    LANES,
    choose,
    float_at,
    fused,
    load32,
    maximum,
    narrow,
    store32,
    widen,
    zeros32,
)

ROW = LANES * 4  # bytes of one float32 vector
TILE = 4  # rows that a product computes at a time
SEGMENT_ROW = 16  # bytes of a row of the table of segments: first token, tokens
LARGEST_EXPONENT = 80.0  # exp(-exp(80)) is 0; beyond it exp itself overflows
SMALLEST_EXPONENT = -87.0
SMALLEST_POWER = -126.0  # of two, as a normal float32


@inlined
def bytes_of(storage):  # type: ignore[no-untyped-def]
    """Bytes of one number."""
    return 2 if storage == BFLOAT16 else 4


@inlined
def log2_decay(w):  # type: ignore[no-untyped-def]
    """log₂ D = -log₂ e · exp(w); exactly 0 for w = -∞, finite for w = ∞."""
    bounded = 0.0 - maximum(0.0 - w, -LARGEST_EXPONENT)
    return choose(SMALLEST_EXPONENT - w, zeros32(), exp(bounded)) * -LOG2_E


@inlined
def decay_of(log2):  # type: ignore[no-untyped-def]
    """2^log2 for log2 ≤ 0; exactly 0 below the normal numbers, so that nothing passes over a token of total decay."""
    return choose(SMALLEST_POWER - log2, zeros32(), exp2(log2))


@inlined
def exact_decay_of(log2):  # type: ignore[no-untyped-def]
    """2^log2 to the last bit of float32: an error would grow with every chunk that a state passes over."""
    return narrow(exp2_64(widen(log2)))


@inlined
def fill(address, size):  # type: ignore[no-untyped-def]
    """Write `size` bytes of zeros, a multiple of ROW."""
    for offset in range(0, size, ROW):
        store32(address + offset, zeros32())


@inlined
def load_tile(address, stride):  # type: ignore[no-untyped-def]
    """TILE vectors, `stride` bytes apart."""
    return load32(address), load32(address + stride), load32(address + 2 * stride), load32(address + 3 * stride)


@inlined
def store_tile(address, stride, tile):  # type: ignore[no-untyped-def]
    """Write TILE vectors, `stride` bytes apart."""
    store32(address, tile[0])
    store32(address + stride, tile[1])
    store32(address + 2 * stride, tile[2])
    store32(address + 3 * stride, tile[3])


@inlined
def empty_tile():  # type: ignore[no-untyped-def]
    """TILE vectors of zeros."""
    return zeros32(), zeros32(), zeros32(), zeros32()


@inlined
def add_products(tile, left, down, along, right, stride, count):  # type: ignore[no-untyped-def]
    """tile_i + Σ_l left[i, l] right[l] for TILE rows i and `count` terms l.

    The numbers of `left` are `down` bytes apart along i and `along` along l, the vectors of `right` `stride` bytes.
    """
    a, b, c, d = tile
    for _ in range(count):
        vector = load32(right)
        a = fused(vector, float_at(left), a)
        b = fused(vector, float_at(left + down), b)
        c = fused(vector, float_at(left + 2 * down), c)
        d = fused(vector, float_at(left + 3 * down), d)
        left += along
        right += stride
    return a, b, c, d


@inlined
def chunk_decays(w, stride, storage, tokens, log2, from_start, to_end):  # type: ignore[no-untyped-def]
    """Decays of one block of channels: log₂ D of each token, and over the tokens before and after it in the chunk.

    Each goes to rows ROW bytes apart. Returns log₂ of the decay over the whole chunk.
    """
    before, after = zeros32(), zeros32()
    for token in range(tokens):
        own = log2_decay(load(w + token * stride, storage))
        store32(log2 + token * ROW, own)
        store32(from_start + token * ROW, decay_of(before))
        before = before + own
    for back in range(tokens):
        token = tokens - 1 - back
        store32(to_end + token * ROW, decay_of(after))
        after = after + load32(log2 + token * ROW)
    return before


@inlined
def advance(state, decay, rows, columns, size):  # type: ignore[no-untyped-def]
    """state[j] = decay[j] state[j] + Σ_s rows[s, j] columns[s] over the tokens of a chunk; all of width `size`."""
    width = size * 4
    for block in range(size // LANES):
        for row in range(0, size, TILE):
            here = state + (block * size + row) * ROW
            a, b, c, d = load_tile(here, ROW)
            keep = decay + row * 4
            tile = a * float_at(keep), b * float_at(keep + 4), c * float_at(keep + 8), d * float_at(keep + 12)
            tile = add_products(tile, rows + row * 4, 4, width, columns + block * ROW, width, CHUNK)
            store_tile(here, ROW, tile)


@inlined
def advance_columns(state, updated, keep, rows, width, columns, size):  # type: ignore[no-untyped-def]
    """updated[j] = keep ∘ state[j] + Σ_s rows[s, j] columns[s], whose one block of columns has the decays `keep`.

    `rows` are `width` bytes apart, the vectors of `columns` ROW bytes; `updated` may be `state`.
    """
    for row in range(0, size, TILE):
        a, b, c, d = load_tile(state + row * ROW, ROW)
        tile = add_products((a * keep, b * keep, c * keep, d * keep), rows + row * 4, 4, width, columns, ROW, CHUNK)
        store_tile(updated + row * ROW, ROW, tile)
