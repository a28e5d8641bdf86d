# mypy: ignore-errors
"""Bi-WKV of steep channels (`is_steep`), which plain sums over a span are not right for: any decay, slowly.

A program walks through a whole image, one channel a lane, with states that `triton_states` describes. Those between
blocks of tokens are put aside in `borders` (programs, kinds, blocks, 4, LANES) float32 and met again on the way back.
Where no channel is steep, a program looks at decay and bonus and ends.
"""

import triton
import triton.language as tl

from vrwkv.ops.bi_wkv.triton_programs import is_steep, per_token
from vrwkv.ops.bi_wkv.triton_states import (
    crossing,
    empty_state,
    keep_state,
    kept_state,
    load_tokens,
    load_weights,
    mean,
    ones,
    passed,
    states_after,
    states_before,
    weighed,
)
from vrwkv.ops.triton_arithmetic import LOG2_E


@triton.jit
def _steep_channels(
    decay, bonus, channel, channels, count, SPAN: tl.constexpr, LENGTH: tl.constexpr, CROSSING: tl.constexpr
):  # fmt: skip
    """w and u of channels in float64, and which of them are steep, as the other kernels see it."""
    exists = channel < channels
    decays = tl.load(decay + channel, mask=exists, other=0.0).to(tl.float32)
    bonuses = tl.load(bonus + channel, mask=exists, other=0.0).to(tl.float32)
    w, u = per_token(decays, bonuses, count)
    steep = exists & is_steep(w, u, count, SPAN, LENGTH, CROSSING)
    tokens = count * 1.0
    return decays.to(tl.float64) * LOG2_E / tokens, bonuses.to(tl.float64) * LOG2_E / tokens, steep


@triton.jit
def _any_steep(
    decay, bonus, tokens, channels, ALL: tl.constexpr, SPAN: tl.constexpr, LENGTH: tl.constexpr,
    CROSSING: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Whether any channel may be steep; packed images, which have a number of tokens each, are looked at one by one."""
    if PACKED:
        return True
    else:
        _w, _u, steep = _steep_channels(
            decay, bonus, tl.arange(0, ALL), channels, tokens, SPAN, LENGTH, CROSSING
        )  # fmt: skip
        return tl.max(steep.to(tl.int32), 0) > 0


@triton.jit
def _locate(images, item, tokens, channels, LANES: tl.constexpr, PACKED: tl.constexpr):
    groups = (channels + LANES - 1) // LANES
    image = item // groups
    if PACKED:
        first = tl.load(images + 2 * image)
        tokens = tl.load(images + 2 * image + 1).to(tl.int32)
    else:
        first = image.to(tl.int64) * tokens
    return image, first, tokens, (item % groups) * LANES + tl.arange(0, LANES)


@triton.jit
def _peak(k, count, left, channels, BLOCK: tl.constexpr):
    """Largest key of each lane."""
    peak = tl.load(k, mask=left > 0, other=0.0).to(tl.float32)
    for first in range(0, count, BLOCK):
        for row in tl.static_range(BLOCK):
            key = tl.load(k + (first + row) * channels, mask=first + row < left, other=float("-inf"))
            peak = tl.maximum(peak, key.to(tl.float32))
    return peak


@triton.jit
def _keep_states_after_blocks(
    k, v, borders, count, left, channels, peak, w, BLOCK: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    """Put aside the state after each block of an image."""
    state = empty_state(w)
    blocks = (count + BLOCK - 1) // BLOCK
    for back in range(0, blocks):
        block = blocks - 1 - back
        keep_state(borders, block, LANES, state)
        weights = load_weights(k, block * BLOCK, left, channels, peak, BLOCK)
        values = load_tokens(v, block * BLOCK, left, channels, BLOCK)
        state = states_after(state, w, weights, values, ones(w, BLOCK), BLOCK)[1]
    tl.debug_barrier()


@triton.jit(do_not_specialize=("items", "tokens", "blocks"))
def steep_outputs_kernel(
    k, v, gate, y, borders, decay, bonus, images, items, tokens, channels, blocks,
    ALL: tl.constexpr, SPAN: tl.constexpr, LENGTH: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr,
    GATED: tl.constexpr, PACKED: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The weighted mean at each token, gated if there is a gate, of steep channels.

    With a WIDTH of 2, of both channels of a pair in which one is steep: `outputs_kernel` leaves out whole pairs.
    """
    if _any_steep(decay, bonus, tokens, channels, ALL, SPAN, LENGTH, False, PACKED):
        kept = borders + tl.program_id(0).to(tl.int64) * blocks * 4 * LANES + tl.arange(0, LANES)
        for item in range(tl.program_id(0), items, tl.num_programs(0)):
            _image, image_first, count, channel = _locate(images, item, tokens, channels, LANES, PACKED)
            w, u, steep = _steep_channels(decay, bonus, channel, channels, count, SPAN, LENGTH, False)
            if WIDTH == 2:
                _w, _u, other = _steep_channels(decay, bonus, channel ^ 1, channels, count, SPAN, LENGTH, False)
                steep = steep | other
            if tl.max(steep.to(tl.int32), 0) > 0:
                start = image_first * channels + channel
                left = tl.where(steep, count, 0)
                peak = _peak(k + start, count, left, channels, BLOCK)
                _keep_states_after_blocks(k + start, v + start, kept, count, left, channels, peak, w, BLOCK, LANES)
                before = empty_state(w)
                for block in range(0, (count + BLOCK - 1) // BLOCK):
                    first = block * BLOCK
                    weights = load_weights(k + start, first, left, channels, peak, BLOCK)
                    values = load_tokens(v + start, first, left, channels, BLOCK)
                    after = states_after(
                        kept_state(kept, block, LANES), w, weights, values, ones(w, BLOCK), BLOCK
                    )[0]  # fmt: skip
                    past, before = states_before(before, w, weights, values, ones(w, BLOCK), BLOCK)
                    for row in tl.static_range(BLOCK):
                        valid = first + row < left
                        output = mean(past[row], after[row], weights[row], values[row], u, valid)[0]
                        place = start + (first + row) * channels
                        if GATED:
                            output *= tl.sigmoid(tl.load(gate + place, mask=valid, other=0.0).to(tl.float32))
                        tl.store(y + place, output, mask=valid)
                tl.debug_barrier()


@triton.jit
def _targets(
    grad, gate, first, left, channels, u, past, after, weights, values,
    BLOCK: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """Per token of a block: mean y, its own share, weight 1 / D, g, and g y; the gate's opening and the gradient."""
    rows = load_tokens(grad, first, left, channels, BLOCK)
    openings = rows
    if GATED:
        openings = load_tokens(gate, first, left, channels, BLOCK)
    means, shares, inverses, gradients, moments, opened = (), (), (), (), (), ()
    for row in tl.static_range(BLOCK):
        valid = first + row < left
        output, inverse, share = mean(past[row], after[row], weights[row], values[row], u, valid)
        opening = tl.sigmoid(openings[row]) if GATED else rows[row] * 0.0 + 1.0
        g = rows[row] * opening
        means = means + (output,)  # noqa: RUF005
        shares = shares + (share,)  # noqa: RUF005
        inverses = inverses + (inverse,)  # noqa: RUF005
        gradients = gradients + (g,)  # noqa: RUF005
        moments = moments + (tl.where(valid, g * output, 0.0),)  # noqa: RUF005
        opened = opened + (opening,)  # noqa: RUF005
    return means, shares, inverses, gradients, moments, opened


@triton.jit(do_not_specialize=("items", "tokens", "blocks"))
def steep_gradients_kernel(
    grad, k, v, gate, grad_k, grad_v, grad_gate, borders, partials, decay, bonus, images,
    items, tokens, channels, blocks,
    ALL: tl.constexpr, SPAN: tl.constexpr, LENGTH: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr,
    GATED: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Gradients in k, v and the gate of steep channels, and each image's part of those in decay and bonus.

    `partials` (images, 2, C) is only written where channels are steep.
    """
    if _any_steep(decay, bonus, tokens, channels, ALL, SPAN, LENGTH, True, PACKED):
        kept = borders + tl.program_id(0).to(tl.int64) * blocks * 12 * LANES + tl.arange(0, LANES)
        for item in range(tl.program_id(0), items, tl.num_programs(0)):
            image, image_first, count, channel = _locate(images, item, tokens, channels, LANES, PACKED)
            w, u, steep = _steep_channels(decay, bonus, channel, channels, count, SPAN, LENGTH, True)
            if tl.max(steep.to(tl.int32), 0) > 0:
                start = image_first * channels + channel
                in_decay, in_bonus = _write_steep_gradients(
                    grad + start, k + start, v + start, gate + start, grad_k + start, grad_v + start, grad_gate + start,
                    kept, count, tl.where(steep, count, 0), channels, w, u, blocks, BLOCK, LANES, GATED,
                )  # fmt: skip
                per_image = 1.0 / tl.maximum(count, 1).to(tl.float32)
                part = partials + image.to(tl.int64) * 2 * channels + channel
                tl.store(part, -in_decay * per_image, mask=steep)
                tl.store(part + channels, in_bonus * per_image, mask=steep)
                tl.debug_barrier()


@triton.jit
def _write_steep_gradients(
    grad, k, v, gate, grad_k, grad_v, grad_gate, kept, count, left, channels, w, u, blocks,
    BLOCK: tl.constexpr, LANES: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    peak = _peak(k, count, left, channels, BLOCK)
    _keep_states_after_blocks(k, v, kept, count, left, channels, peak, w, BLOCK, LANES)
    before, adjoint_before = empty_state(w), empty_state(w)
    here = (count + BLOCK - 1) // BLOCK
    for block in range(0, here):
        keep_state(kept, blocks + block, LANES, before)
        keep_state(kept, 2 * blocks + block, LANES, adjoint_before)
        weights = load_weights(k, block * BLOCK, left, channels, peak, BLOCK)
        values = load_tokens(v, block * BLOCK, left, channels, BLOCK)
        after = states_after(kept_state(kept, block, LANES), w, weights, values, ones(w, BLOCK), BLOCK)[0]
        past, before = states_before(before, w, weights, values, ones(w, BLOCK), BLOCK)
        targets = _targets(grad, gate, block * BLOCK, left, channels, u, past, after, weights, values, BLOCK, GATED)
        adjoint_before = states_before(adjoint_before, w, targets[2], targets[3], targets[4], BLOCK)[1]
    tl.debug_barrier()
    _, decay_sum, bonus_sum = empty_state(w)
    adjoint_after = empty_state(w)
    for back in range(0, here):
        block = here - 1 - back
        first = block * BLOCK
        weights = load_weights(k, first, left, channels, peak, BLOCK)
        values = load_tokens(v, first, left, channels, BLOCK)
        after = states_after(kept_state(kept, block, LANES), w, weights, values, ones(w, BLOCK), BLOCK)[0]
        past = states_before(kept_state(kept, blocks + block, LANES), w, weights, values, ones(w, BLOCK), BLOCK)[0]
        means, shares, inverses, gradients, moments, opened = _targets(
            grad, gate, first, left, channels, u, past, after, weights, values, BLOCK, GATED
        )
        adjoint_past = states_before(
            kept_state(kept, 2 * blocks + block, LANES), w, inverses, gradients, moments, BLOCK
        )[0]
        for row in tl.static_range(BLOCK - 1, -1, -1):
            valid = first + row < left
            place = (first + row) * channels
            past_mass, past_moment = weighed(adjoint_past[row], weights[row])
            next_mass, next_moment = weighed(adjoint_after, weights[row])
            mass, own = past_mass + next_mass, shares[row] * gradients[row]
            own_moment = own * (values[row] - means[row])
            tl.store(grad_v + place, mass + own, mask=valid)
            tl.store(grad_k + place, values[row] * mass - (past_moment + next_moment) + own_moment, mask=valid)
            if GATED:
                closing = gradients[row] * means[row] * (1.0 - opened[row])
                tl.store(grad_gate + place, closing, mask=valid)
            bonus_sum += tl.where(valid, own_moment, 0.0)
            crossed = crossing(past[row], adjoint_after, w) + crossing(after[row], adjoint_past[row], w)
            decay_sum += tl.where(valid, crossed, 0.0)
            adjoint_after = passed(adjoint_after, w, inverses[row], gradients[row], moments[row])
    return decay_sum, bonus_sum
