# mypy: ignore-errors
"""Where a program of Bi-WKV's Triton kernels works, and what it knows of its channels before it reads any token."""

import triton
import triton.language as tl

from vrwkv.ops.bi_wkv.triton_channels import load_channels
from vrwkv.ops.triton_arithmetic import LN_2, LOG2_E, exp2

# Logarithms to base 2 up to which plain sums over a span are right: 2^-46 twice over is far from float32's smallest
# number, 2^-126. Decays of ±30 over an image that is one span are below it.
FLAT_LIMIT = tl.constexpr(46.0)
FLAT_GROWTH = tl.constexpr(34.7)  # over an image, where products of states of both sides count: a decay of -24
LONGEST_POWER = tl.constexpr(70.0)  # of a decay over a whole chunk, in which tokens may be missing


@triton.jit
def locate(
    table, tokens, channels, spans, SPAN: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr,
    NEIGHBOURS: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Span, image and channels of this program.

    The spans of an image follow each other, so that programs which wait for each other run at the same time, and
    NEIGHBOURS blocks of channels lie between two spans, whose memory is side by side. Packed images have a table
    (spans, 3): first token of the span, first token of the image and its tokens, none in spare spans.

    Returns:
        slot, first_slot: number of the span, and of its image's first span; int32.
        span, spans: number of the span in its image, and how many that has.
        image_first, tokens: first token of the image, counted over the batch in int64, and its number of tokens.
        lane: (1, LANES) numbers of lanes, each of WIDTH channels.
    """
    groups = (channels + WIDTH * LANES * NEIGHBOURS - 1) // (WIDTH * LANES * NEIGHBOURS)
    program = tl.program_id(0)
    inner = program % NEIGHBOURS
    rest = program // NEIGHBOURS
    if PACKED:
        slot = rest // groups
        outer = rest % groups
        first = tl.load(table + 3 * slot)
        image_first = tl.load(table + 3 * slot + 1)
        tokens = tl.load(table + 3 * slot + 2).to(tl.int32)
        span = ((first - image_first) // SPAN).to(tl.int32)
        spans = (tokens + SPAN - 1) // SPAN
        first_slot = slot - span
    else:
        span = rest % spans
        rest = rest // spans
        outer = rest % groups
        image = rest // groups
        image_first = image.to(tl.int64) * tokens
        first_slot = image * spans
        slot = first_slot + span
    lane = ((outer * NEIGHBOURS + inner) * LANES + tl.arange(0, LANES))[None, :]
    return slot, first_slot, span, spans, image_first, tokens, lane


@triton.jit
def tokens_of(span, count, chunk, exists, w, SPAN: tl.constexpr, LENGTH: tl.constexpr):
    """The tokens of a span of an image of `count` tokens.

    Returns:
        How many of its chunks have tokens; by how much weights grow over it (a natural logarithm); of each chunk, the
        first token, and how many there are from there to the span's end, none where no channel `exists`.
    """
    here = tl.minimum(count - span * SPAN, SPAN)
    first_token = chunk * LENGTH
    growth = tl.maximum(-w, 0.0) * here.to(tl.float32) * LN_2
    return (here + LENGTH - 1) // LENGTH, growth, first_token, tl.where(exists, here - first_token, 0)


@triton.jit
def per_token(decay, bonus, count):
    """w and u of channels in float32, as logarithms to base 2: decay and bonus over an image's number of tokens.

    An image of a single token has neither.
    """
    scale = tl.where(count > 1, LOG2_E / tl.maximum(count, 1).to(tl.float32), 0.0)
    return decay * scale, bonus * scale


@triton.jit
def is_steep(w, u, count, SPAN: tl.constexpr, LENGTH: tl.constexpr, CROSSING: tl.constexpr):
    """Which channels plain sums over a span are not right for. What is no number is steep, and comes out as none.

    CROSSING: whether states are multiplied with adjoint states. Where weights grow with distance, those of the two
    sides differ in scale by what they grow over the whole image, not over a span alone.
    """
    spread = tl.abs(w) * (tl.minimum(count, SPAN) - 1).to(tl.float32) + tl.abs(u)
    flat = (spread <= FLAT_LIMIT) & (tl.abs(w) * LENGTH <= LONGEST_POWER)
    if CROSSING:
        flat = flat & (-w * count.to(tl.float32) <= FLAT_GROWTH)
    return tl.where(flat, 0, 1) > 0


@triton.jit
def channel_parameters(decay, bonus, lane, exists, count, WIDTH: tl.constexpr):
    """Of channels (1, lanes, WIDTH): w and u, and the factors by which a step away fades and a token weighs itself."""
    w, u = per_token(
        load_channels(decay, lane, exists, WIDTH), load_channels(bonus, lane, exists, WIDTH), count
    )  # fmt: skip
    return w, u, exp2(-w), exp2(u)
