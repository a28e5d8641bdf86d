"""The compiled loop of shift-and-mix, backward.

The gradient in z is gathered: a token asks the one that looked at it, which lies in the opposite direction, so that no
task adds to another's results. Sums over tokens are kept per task; the caller adds them up, in one order.
"""

from numba import float32

from vrwkv.ops.cpu_runtime.functions import inlined, load, store
from vrwkv.ops.cpu_runtime.kernel import kernel
from vrwkv.ops.cpu_runtime.vectors import (
    BFLOAT16,
    FLOAT32,
    LANES,
    choose,
    fused,
    load32,
    spread,
    stack_memory,
    store32,
    sum_of_lanes,
    word_at,
    zeros32,
)
from vrwkv.ops.shift_mix.cpu_channels import (
    SEVERAL,
    UNMOVED,
    neighbour,
    next_place,
    normalised,
    place_of,
    seen_in_several,
    token_statistics,
)

MOST_CHANNELS = 8192
ROW_BYTES = MOST_CHANNELS * 4


@inlined
def _moved(gradients, at, plane, amounts, correction, channels, count, storage):  # type: ignore[no-untyped-def]
    """Σ_m g_m (share_m + correction_m): what the channels at a place took from the token that they looked at."""
    moved = zeros32()
    for mixture in range(count):
        amount = load32(amounts + mixture * channels * 4)
        if correction != 0:
            amount = amount + load(correction + mixture * plane + at, storage)
        moved = fused(load(word_at(gradients + mixture * 8) + at, storage), amount, moved)
    return moved


@inlined
def _looking(token, direction, row, column, height, width, shift):  # type: ignore[no-untyped-def]
    """The token that sees this one when it looks in a direction; -1 for none."""
    opposite = direction ^ 1 if direction < UNMOVED else direction
    return neighbour(token, opposite, row, column, height, width, shift)


@inlined
def _write_gradients(first, last, arguments, storage, size, count):  # type: ignore[no-untyped-def]
    gradients, x, share, correction, weight, bias = (
        word_at(arguments),
        word_at(arguments + 8),
        word_at(arguments + 16),
        word_at(arguments + 24),
        word_at(arguments + 32),
        word_at(arguments + 40),
    )
    statistics, grad_x, grad_correction, sums, runs, masks, fresh = (
        word_at(arguments + 48),
        word_at(arguments + 56),
        word_at(arguments + 64),
        word_at(arguments + 72),
        word_at(arguments + 80),
        word_at(arguments + 88),
        word_at(arguments + 96),
    )
    total, image_tokens, channels, height, width, shift, tokens_per_task, run_count = (
        word_at(arguments + 104),
        word_at(arguments + 112),
        word_at(arguments + 120),
        word_at(arguments + 136),
        word_at(arguments + 144),
        word_at(arguments + 152),
        word_at(arguments + 160),
        word_at(arguments + 168),
    )
    stride = channels * size
    plane = total * stride
    inverse = float32(1.0 / channels)
    normed = statistics != 0
    everything = spread(float32(1.0))
    through = stack_memory(ROW_BYTES)  # the gradient in the standardised channels of one token
    for task in range(first, last):
        partial = sums + task * (count + 2) * channels * 4
        place, row, column = place_of(task * tokens_per_task - 1, image_tokens, width)
        for token in range(task * tokens_per_task, min((task + 1) * tokens_per_task, total)):
            place, row, column = next_place(place, row, column, image_tokens, height, width)
            own = token_statistics(statistics, token, total)
            here = token * stride
            mean_sum, along_sum = zeros32(), zeros32()
            for run in range(run_count):
                begin, end, kind = word_at(runs + run * 24), word_at(runs + run * 24 + 8), word_at(runs + run * 24 + 16)
                moving = kind != UNMOVED and row >= 0
                looked_at = neighbour(token, kind, row, column, height, width, shift)
                looking = _looking(token, kind, row, column, height, width, shift)
                found = token_statistics(statistics, looked_at, total)
                for channel in range(begin, end, LANES):
                    at = here + channel * size
                    counted = load32(fresh) if channel + LANES == channels else everything
                    value = load(x + at, storage)
                    z = normalised(value, own, normed, weight + channel * 4, bias + channel * 4)
                    difference, taken = zeros32(), zeros32()
                    amounts = share + channel * 4
                    if moving:
                        seen = zeros32()
                        if kind == SEVERAL:
                            seen = seen_in_several(
                                x, token, channel, masks, channels, row, column, height, width, shift,
                                stride, storage, size, statistics, total, weight, bias,
                            )  # fmt: skip
                            for direction in range(5):
                                other = _looking(token, direction, row, column, height, width, shift)
                                if other >= 0:
                                    from_there = other * stride + channel * size
                                    moved = _moved(
                                        gradients, from_there, plane, amounts, correction, channels, count, storage
                                    )
                                    mask = load32(masks + (direction * channels + channel) * 4)
                                    taken = choose(mask, moved, taken)
                        else:
                            if looked_at >= 0:
                                seen = load(x + looked_at * stride + channel * size, storage)
                                seen = normalised(seen, found, normed, weight + channel * 4, bias + channel * 4)
                            if looking >= 0:
                                from_there = looking * stride + channel * size
                                taken = _moved(
                                    gradients, from_there, plane, amounts, correction, channels, count, storage
                                )
                        difference = seen - z
                    received, given = zeros32(), zeros32()
                    for mixture in range(count):
                        g = load(word_at(gradients + mixture * 8) + at, storage)
                        in_share = g * difference
                        amount = load32(amounts + mixture * channels * 4)
                        if correction != 0:
                            amount = amount + load(correction + mixture * plane + at, storage)
                            store(grad_correction + mixture * plane + at, storage, in_share)
                        received = received + g
                        given = fused(g, amount, given)
                        slot = partial + (mixture * channels + channel) * 4
                        store32(slot, fused(in_share, counted, load32(slot)))
                    if moving:
                        received = received + (taken - given)
                    if not normed:
                        store(grad_x + at, storage, received)
                    else:
                        plain = ((value - own[0]) - own[1]) * own[2]
                        slot = partial + (count * channels + channel) * 4
                        store32(slot, fused(received * plain, counted, load32(slot)))
                        slot = slot + channels * 4
                        store32(slot, fused(received, counted, load32(slot)))
                        received = received * load32(weight + channel * 4)
                        store32(through + channel * 4, received)
                        mean_sum = fused(received, counted, mean_sum)
                        along_sum = fused(received * plain, counted, along_sum)
            if normed:
                mean, along = sum_of_lanes(mean_sum) * inverse, sum_of_lanes(along_sum) * inverse
                for block in range((channels + LANES - 1) // LANES):
                    channel = min(block * LANES, channels - LANES)
                    at = here + channel * size
                    plain = ((load(x + at, storage) - own[0]) - own[1]) * own[2]
                    store(grad_x + at, storage, ((load32(through + channel * 4) - mean) - plain * along) * own[2])


@kernel
def write_gradients(first, last, arguments):  # type: ignore[no-untyped-def]
    """Gradients in x and correction, and each task's sums (M + 2, C) for share, the norm's weight and its bias.

    Arguments: the addresses of M gradients (tokens, C), x, share, correction, norm's weight and bias, statistics (each
    of the last four may be 0), grad_x, grad_correction (or 0), sums (tasks, M + 2, C) of zeros, runs and masks of the
    channels, lanes of the last block, tokens, tokens of an image, C, M, height, width, shift, tokens of a task, number
    of runs, storage.
    """
    count = word_at(arguments + 128)
    if word_at(arguments + 176) == BFLOAT16:
        _write_gradients(first, last, arguments, BFLOAT16, 2, count)
    # Written out for the mixtures of Vision-RWKV: loops of unknown length take as long as all the rest.
    elif count == 3:
        _write_gradients(first, last, arguments, FLOAT32, 4, 3)
    elif count == 2:
        _write_gradients(first, last, arguments, FLOAT32, 4, 2)
    else:
        _write_gradients(first, last, arguments, FLOAT32, 4, count)
