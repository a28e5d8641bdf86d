# mypy: ignore-errors
"""What each chunk of tokens hands on to the chunks after it and before it, and how those sums reach every chunk.

Per direction (0 forward, 1 backward) the sums stand in `scales` (2, chunks, C) float64 and `pairs` (2, 2, chunks, C)
float32: direction, then first or second of the pair. Scales are float64 because keys of 1e4 leave float32 too few
digits; they are only added and compared.
"""

import triton
import triton.language as tl

from vrwkv.ops.bi_wkv.triton_lanes import (
    as_weights,
    load_keys,
    load_values,
    locate,
    per_token_parameters,
    walking_parameter,
)
from vrwkv.ops.bi_wkv.triton_states import NOTHING, add, empty_state, fade, far


@triton.jit
def store_summary(scales, pairs, lane, lanes, present, scale, state):
    """One direction's sums of a chunk; `scale` in float64 counts on top of the state's own."""
    tl.store(scales + lane, scale + state[0].to(tl.float64), mask=present)
    tl.store(pairs + lane, state[1], mask=present)
    tl.store(pairs + lanes + lane, state[2], mask=present)


@triton.jit
def normalised(state):
    """The same sum with a second member of 1: the mean of the values, and the logarithm of their weight as scale."""
    mass = tl.where(state[2] > 0, state[2], 1.0)
    return state[0] + tl.log(mass), state[1] / mass, tl.where(state[2] > 0, 1.0, 0.0)


@triton.jit
def _summarise(
    k, v, peaks, scales, pairs, w, lane, lanes, offset, channels, left, reference,
    LENGTH: tl.constexpr, BLOCK: tl.constexpr, STEEP: tl.constexpr,
):  # fmt: skip
    present = left > 0
    peak = tl.zeros_like(reference) + NOTHING
    for start in range(0, LENGTH, BLOCK):
        keys = load_keys(k, offset, channels, left, 0.0, start, BLOCK)
        for token in tl.static_range(BLOCK):
            peak = tl.maximum(peak, keys[token])
    decay = walking_parameter(-w if not STEEP else w, STEEP)
    to_end, to_start = empty_state(lane, STEEP), empty_state(lane, STEEP)
    reach = tl.zeros_like(decay) + (0.0 if STEEP else 1.0)
    for start in range(0, LENGTH, BLOCK):
        weights = as_weights(load_keys(k, offset, channels, left, peak, start, BLOCK), BLOCK, STEEP)
        values = load_values(v, offset, channels, left, reference, start, BLOCK)
        for token in tl.static_range(BLOCK):
            to_end = add(fade(to_end, decay, STEEP), weights[token], values[token], 1.0, STEEP)
            to_start = add(to_start, far(weights[token], reach, STEEP), values[token], 1.0, STEEP)
            reach = reach + decay if STEEP else reach * decay
    tl.store(peaks + lane, peak, mask=present)
    scale = peak.to(tl.float64)
    store_summary(scales, pairs, lane, lanes, present, scale, normalised(to_end))
    store_summary(scales + lanes, pairs + 2 * lanes, lane, lanes, present, scale, normalised(to_start))


@triton.jit
def summarise_chunks_kernel(
    k, v, decay, bonus, table, peaks, scales, pairs, lanes, tokens, channels,
    LENGTH: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Largest key of each chunk, and its weighted values as the tokens right after and right before it see them."""
    lane, channel, first, left, image_first, image_tokens = locate(
        table, lanes, tokens, channels, LENGTH, LANES, PACKED
    )
    w, _, _, steep = per_token_parameters(decay, bonus, channel, image_tokens, LENGTH)
    offset = first * channels + channel
    reference = tl.load(v + image_first * channels + channel, mask=left > 0, other=0.0).to(tl.float32)
    if steep:
        _summarise(
            k, v, peaks, scales, pairs, w, lane, lanes, offset, channels, left, reference, LENGTH, BLOCK, True
        )  # fmt: skip
    else:
        _summarise(
            k, v, peaks, scales, pairs, w, lane, lanes, offset, channels, left, reference, LENGTH, BLOCK, False
        )  # fmt: skip


@triton.jit
def carry_states_kernel(
    decay, boundaries, scales, pairs, state_scales, state_pairs, lanes, images, tokens, channels,
    LENGTH: tl.constexpr, GROUP: tl.constexpr, LANES: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """The sums that reach each chunk: from all chunks before it (program axis 1 at 0), or after it (at 1).

    A lane is one channel of one image and walks over its chunks. Counted from the image's border, a chunk's scale
    includes its distance from there, so that a step needs no decay. GROUP summaries are loaded at once, since loads do
    not wait for the walk.
    """
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    exists = lane < images * channels
    image, channel = lane // channels, lane % channels
    backward = tl.program_id(1)
    if PACKED:
        image_tokens = tl.load(boundaries + 2 * image + 1, mask=exists, other=0)
        first_chunk = tl.load(boundaries + 2 * image, mask=exists, other=0)
    else:
        image_tokens = tl.where(exists, tokens, 0).to(tl.int64)
        first_chunk = image * ((tokens + LENGTH - 1) // LENGTH)
    chunks = (image_tokens + LENGTH - 1) // LENGTH
    w = tl.load(decay + channel, mask=exists, other=0.0).to(tl.float64) / tl.maximum(image_tokens, 1).to(tl.float64)
    fading = w * LENGTH
    direction = backward.to(tl.int64) * lanes
    scale, state_first, state_second = tl.zeros_like(w) + NOTHING, tl.zeros_like(w), tl.zeros_like(w)
    state_first, state_second = state_first.to(tl.float32), state_second.to(tl.float32)
    for start in range(0, tl.max(chunks, 0), GROUP):
        rows = ()
        for step in tl.static_range(GROUP):
            present = start + step < chunks
            index = tl.where(backward == 1, chunks - 1 - start - step, start + step)
            place = (first_chunk + index) * channels + channel
            rows = rows + (  # noqa: RUF005
                (
                    tl.load(scales + direction + place, mask=present, other=NOTHING),
                    tl.load(pairs + 2 * direction + place, mask=present, other=0.0),
                    tl.load(pairs + 2 * direction + lanes + place, mask=present, other=0.0),
                    place,
                    present,
                ),
            )
        for step in tl.static_range(GROUP):
            row_scale, row_first, row_second, place, present = rows[step]
            distance = fading * (start + step)
            tl.store(state_scales + direction + place, scale - distance, mask=present)
            tl.store(state_pairs + 2 * direction + place, state_first, mask=present)
            tl.store(state_pairs + 2 * direction + lanes + place, state_second, mask=present)
            moved = row_scale + (distance + fading)
            common = tl.maximum(scale, moved)
            keep, gain = tl.exp((scale - common).to(tl.float32)), tl.exp((moved - common).to(tl.float32))
            state_first = keep * state_first + gain * row_first
            state_second = keep * state_second + gain * row_second
            scale = common
