"""Compiled loops of shift-and-mix, forward: statistics of the norm, and the mixtures."""

from numba import float32

from vrwkv.ops.cpu_runtime.functions import inlined, load, store
from vrwkv.ops.cpu_runtime.kernel import kernel
from vrwkv.ops.cpu_runtime.vectors import (
    BFLOAT16,
    FLOAT32,
    LANES,
    float_at,
    fused,
    load32,
    store32,
    store_float,
    sum_of_lanes,
    word_at,
    zeros32,
)
from vrwkv.ops.shift_mix.cpu_channels import (
    SEVERAL,
    neighbour,
    next_place,
    normalised,
    place_of,
    seen_in_several,
    token_statistics,
)

TOKENS_PER_TASK = 16


@inlined
def _norm_statistics(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    x, statistics, fresh = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16)
    total, channels, eps = word_at(arguments + 24), word_at(arguments + 32), float_at(arguments + 40)
    branch = word_at(arguments + 56)
    whole = channels // LANES
    tail = (channels - LANES) * size
    share = float32(1.0 / channels)
    for token in range(first * TOKENS_PER_TASK, min(last * TOKENS_PER_TASK, total)):
        row = x + token * channels * size
        if branch != 0:
            added = branch + token * channels * size
            for offset in range(0, channels * size, LANES * size):
                store(added + offset, storage, load(row + offset, storage) + load(added + offset, storage))
            row = added
        sums = zeros32()
        for block in range(whole):
            sums = sums + load(row + block * LANES * size, storage)
        if whole * LANES < channels:
            sums = fused(load(row + tail, storage), load32(fresh), sums)
        mean = sum_of_lanes(sums) * share
        sums, squares = zeros32(), zeros32()
        for block in range(whole):
            away = load(row + block * LANES * size, storage) - mean
            sums = sums + away
            squares = fused(away, away, squares)
        if whole * LANES < channels:
            away = (load(row + tail, storage) - mean) * load32(fresh)
            sums = sums + away
            squares = fused(away, away, squares)
        rest = sum_of_lanes(sums) * share
        variance = sum_of_lanes(squares) * share - rest * rest
        store_float(statistics + token * 4, mean)
        store_float(statistics + (total + token) * 4, rest)
        store_float(
            statistics + (2 * total + token) * 4, float32(1.0) / (max(variance, float32(0.0)) + eps) ** float32(0.5)
        )


@kernel
def norm_statistics(first, last, arguments):  # type: ignore[no-untyped-def]
    """Mean, what rounding left of it, and 1 / deviation of each token; tasks are runs of TOKENS_PER_TASK tokens.

    Arguments: x, statistics (3, tokens), lanes of the last block, tokens, C, the bits of eps, storage, branch (or 0; C
    is a multiple of 16 then), to which x is added first, and whose statistics these are then.
    """
    if word_at(arguments + 48) == BFLOAT16:
        _norm_statistics(first, last, arguments, BFLOAT16, 2)
    else:
        _norm_statistics(first, last, arguments, FLOAT32, 4)


@kernel
def write_shares(first, last, arguments):  # type: ignore[no-untyped-def]
    """What the token's own shares leave for the shifted one; a task is a mixture.

    Arguments: shares (M, C), C (a multiple of 16), M own shares (C,).
    """
    shares, channels = word_at(arguments), word_at(arguments + 8)
    for mixture in range(first, last):
        own = word_at(arguments + 16 + mixture * 8)
        for channel in range(0, channels, LANES):
            store32(shares + (mixture * channels + channel) * 4, 1.0 - load32(own + channel * 4))


@inlined
def _mix_block(x_value, seen, correction, share, mixtures, plane, at, channels, count, storage):  # type: ignore[no-untyped-def]
    """All mixtures of 16 channels; `at` is their place in one mixture, `plane` the size of one, in bytes."""
    difference = seen - x_value
    for mixture in range(count):
        amount = load32(share + mixture * channels * 4)
        if correction != 0:
            amount = amount + load(correction + mixture * plane + at, storage)
        store(mixtures + mixture * plane + at, storage, fused(difference, amount, x_value))


@inlined
def _write_mixtures(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    x, share, correction, weight, bias = (
        word_at(arguments),
        word_at(arguments + 8),
        word_at(arguments + 16),
        word_at(arguments + 24),
        word_at(arguments + 32),
    )
    statistics, mixtures, runs, masks = (
        word_at(arguments + 40),
        word_at(arguments + 48),
        word_at(arguments + 56),
        word_at(arguments + 64),
    )
    total, image_tokens, channels, count = (
        word_at(arguments + 72),
        word_at(arguments + 80),
        word_at(arguments + 88),
        word_at(arguments + 96),
    )
    height, width, shift = word_at(arguments + 104), word_at(arguments + 112), word_at(arguments + 120)
    run_count = word_at(arguments + 128)
    stride = channels * size
    plane = total * stride
    normed = statistics != 0
    place, row, column = place_of(first * TOKENS_PER_TASK - 1, image_tokens, width)
    for token in range(first * TOKENS_PER_TASK, min(last * TOKENS_PER_TASK, total)):
        place, row, column = next_place(place, row, column, image_tokens, height, width)
        own = token_statistics(statistics, token, total)
        here = token * stride
        for run in range(run_count):
            begin, end, kind = word_at(runs + run * 24), word_at(runs + run * 24 + 8), word_at(runs + run * 24 + 16)
            if kind == SEVERAL:
                at = here + begin * size
                z = normalised(load(x + at, storage), own, normed, weight + begin * 4, bias + begin * 4)
                seen = seen_in_several(
                    x, token, begin, masks, channels, row, column, height, width, shift,
                    stride, storage, size, statistics, total, weight, bias,
                )  # fmt: skip
                _mix_block(z, seen, correction, share + begin * 4, mixtures, plane, at, channels, count, storage)
                continue
            other = neighbour(token, kind, row, column, height, width, shift)
            found = token_statistics(statistics, other, total)
            away = (other - token) * stride
            for channel in range(begin, end, LANES):
                at = here + channel * size
                z = normalised(load(x + at, storage), own, normed, weight + channel * 4, bias + channel * 4)
                seen = zeros32()
                if other >= 0:
                    value = load(x + at + away, storage)
                    seen = normalised(value, found, normed, weight + channel * 4, bias + channel * 4)
                _mix_block(z, seen, correction, share + channel * 4, mixtures, plane, at, channels, count, storage)


@kernel
def write_mixtures(first, last, arguments):  # type: ignore[no-untyped-def]
    """z + (shifted z - z) · (share + correction) for each mixture; tasks are runs of TOKENS_PER_TASK tokens.

    Arguments: x, share, correction, norm's weight and bias, statistics (each of the last four may be 0), mixtures
    (M, tokens, C), runs and masks of the channels, tokens, tokens of an image, C, M, height, width, shift, number of
    runs, storage.
    """
    if word_at(arguments + 136) == BFLOAT16:
        _write_mixtures(first, last, arguments, BFLOAT16, 2)
    else:
        _write_mixtures(first, last, arguments, FLOAT32, 4)
