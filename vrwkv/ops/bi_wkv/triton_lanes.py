# mypy: ignore-errors
"""Where a lane of Bi-WKV's Triton kernels works, and the rows of tokens that it loads.

A lane is one channel of one chunk of tokens, counted chunk by chunk: neighbouring lanes read neighbouring channels, and
no lane is idle because C is no multiple of a block. Chunks of a batch follow from their number; those of packed images
stand in a table (chunks, 3) int64: first token of the chunk, first token and tokens of its image, which has none where
the table is longer than it need be.
"""

import triton
import triton.language as tl

from vrwkv.ops.bi_wkv.triton_states import FLAT_GROWTH, FLAT_LIMIT, NOTHING


@triton.jit
def locate(table, lanes, tokens, channels, LENGTH: tl.constexpr, LANES: tl.constexpr, PACKED: tl.constexpr):
    """Of each lane: number, channel, first token, tokens left in the image, first token and tokens of the image.

    Tokens are counted over the whole batch, in int64; a lane beyond the last has no tokens left.
    """
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    exists = lane < lanes
    chunk, channel = lane // channels, lane % channels
    if PACKED:
        first = tl.load(table + 3 * chunk, mask=exists, other=0)
        image_first = tl.load(table + 3 * chunk + 1, mask=exists, other=0)
        image_tokens = tl.load(table + 3 * chunk + 2, mask=exists, other=0)
    else:
        chunks_per_image = (tokens + LENGTH - 1) // LENGTH
        image_first = chunk // chunks_per_image * tokens
        first = image_first + chunk % chunks_per_image * LENGTH
        image_tokens = tl.where(exists, tokens, 0).to(tl.int64)
    left = tl.where(image_tokens > 0, image_first + image_tokens - first, 0)
    return lane, channel, first, left, image_first, image_tokens


@triton.jit
def per_token_parameters(decay, bonus, channel, image_tokens, LENGTH: tl.constexpr, CROSSING: tl.constexpr = False):
    """w and u of each lane in float64, the most that e^{-w} can grow over a chunk, and whether it takes STEEP sums.

    CROSSING: whether states are multiplied with adjoint states. Where weights grow with distance, those of the two
    sides differ in scale by what they grow over the whole image, not over a chunk alone.
    """
    present = image_tokens > 0
    count = tl.maximum(image_tokens, 1).to(tl.float64)
    w = tl.load(decay + channel, mask=present, other=0.0).to(tl.float64) / count
    u = tl.load(bonus + channel, mask=present, other=0.0).to(tl.float64) / count
    span = tl.minimum(LENGTH, tl.maximum(image_tokens, 1)) - 1
    spread = tl.abs(w) * span.to(tl.float64) + tl.abs(u)
    if CROSSING:
        spread = tl.maximum(spread, tl.maximum(-w, 0.0) * count * (FLAT_LIMIT / FLAT_GROWTH))
    # A decay that is no number counts as steep too, and comes out as no number.
    steep = tl.max(tl.where(spread <= FLAT_LIMIT, 0, 1), 0) > 0
    return w, u, tl.maximum(-w, 0.0) * span.to(tl.float64), steep


@triton.jit
def walking_parameter(parameter, STEEP: tl.constexpr):
    """A log-factor in float64 as walks take it: rounded once, because an error in a factor grows with every token."""
    if STEEP:
        return parameter.to(tl.float32)
    else:
        return tl.exp(parameter).to(tl.float32)


@triton.jit
def load_rows(pointer, offset, channels, left, first, COUNT: tl.constexpr):
    """Tokens `first` … `first` + COUNT - 1 of each lane's chunk, one float32 row each, 0 past the image's end."""
    rows = ()
    for token in tl.static_range(COUNT):
        row = tl.load(pointer + offset + (first + token) * channels, mask=first + token < left, other=0.0)
        rows = rows + (row.to(tl.float32),)  # noqa: RUF005
    return rows


@triton.jit
def load_keys(k, offset, channels, left, reference, first, COUNT: tl.constexpr):
    """Rows of k less the lane's `reference`, far below anything past the image's end."""
    rows = load_rows(k, offset, channels, left, first, COUNT)
    keys = ()
    for token in tl.static_range(COUNT):
        keys = keys + (tl.where(first + token < left, rows[token] - reference, NOTHING),)  # noqa: RUF005
    return keys


@triton.jit
def load_values(v, offset, channels, left, reference, first, COUNT: tl.constexpr):
    """Rows of v less `reference`, the first value of the image: equal values are then 0, and their mean exact."""
    rows = load_rows(v, offset, channels, left, first, COUNT)
    values = ()
    for token in tl.static_range(COUNT):
        values = values + (tl.where(first + token < left, rows[token] - reference, 0.0),)  # noqa: RUF005
    return values


@triton.jit
def as_weights(keys, COUNT: tl.constexpr, STEEP: tl.constexpr):
    """Rows of log-weights as walks take them."""
    weights = ()
    for token in tl.static_range(COUNT):
        weights = weights + (keys[token] if STEEP else tl.exp(keys[token]),)  # noqa: RUF005
    return weights


@triton.jit
def ones(lane, COUNT: tl.constexpr):
    """Rows of ones: what every token adds to a denominator."""
    one = tl.zeros_like(lane).to(tl.float32) + 1.0
    rows = ()
    for token in tl.static_range(COUNT):  # noqa: B007
        rows = rows + (one,)  # noqa: RUF005
    return rows


@triton.jit
def load_gradients(grad, gate, offset, channels, left, first, COUNT: tl.constexpr, GATED: tl.constexpr):
    """Rows of the gradient in the ungated mean, and the gate's openings (those of no gate are the gradients again)."""
    rows = load_rows(grad, offset, channels, left, first, COUNT)
    openings = rows
    if GATED:
        openings = load_rows(gate, offset, channels, left, first, COUNT)
        gradients, opened = (), ()
        for token in tl.static_range(COUNT):
            opening = tl.sigmoid(openings[token])
            opened = opened + (opening,)  # noqa: RUF005
            gradients = gradients + (rows[token] * opening,)  # noqa: RUF005
        return gradients, opened
    else:
        return rows, openings
