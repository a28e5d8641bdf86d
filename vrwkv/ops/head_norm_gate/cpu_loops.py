"""Compiled loops of the norm per head with its gate; a task is a run of tokens."""

from numba import float32

from vrwkv.ops.cpu_runtime.functions import inlined, load, sigmoid, store
from vrwkv.ops.cpu_runtime.kernel import kernel
from vrwkv.ops.cpu_runtime.vectors import (
    BFLOAT16,
    FLOAT32,
    LANES,
    float_at,
    fused,
    load32,
    maximum,
    stack_memory,
    store32,
    sum_of_lanes,
    word_at,
    zeros32,
)

HEAD_BYTES = 1024 * 4


@inlined
def _statistics(y, width, eps, storage, size):  # type: ignore[no-untyped-def]
    """Mean of a head, what rounding left of it, and 1 / deviation."""
    share = float32(1.0 / width)
    sums = zeros32()
    for channel in range(0, width, LANES):
        sums = sums + load(y + channel * size, storage)
    mean = sum_of_lanes(sums) * share
    sums, squares = zeros32(), zeros32()
    for channel in range(0, width, LANES):
        away = load(y + channel * size, storage) - mean
        sums = sums + away
        squares = fused(away, away, squares)
    rest = sum_of_lanes(sums) * share
    variance = sum_of_lanes(squares) * share - rest * rest
    return mean, rest, float32(1.0) / (max(variance, float32(0.0)) + eps) ** float32(0.5)


@inlined
def _write_output(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    y, gate, weight = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16)
    bias, out, tokens = word_at(arguments + 24), word_at(arguments + 32), word_at(arguments + 40)
    channels, width, run = word_at(arguments + 48), word_at(arguments + 56), word_at(arguments + 64)
    eps = float_at(arguments + 72)
    for token in range(first * run, min(last * run, tokens)):
        for head in range(0, channels, width):
            start = (token * channels + head) * size
            mean, rest, scale = _statistics(y + start, width, eps, storage, size)
            for channel in range(0, width, LANES):
                at, parameter = start + channel * size, (head + channel) * 4
                plain = ((load(y + at, storage) - mean) - rest) * scale
                normed = fused(plain, load32(weight + parameter), load32(bias + parameter))
                g = load(gate + at, storage)
                # Below -87 the sigmoid stops falling; so must its factor.
                store(out + at, storage, normed * (maximum(g, -87.0) * sigmoid(g)))


@kernel
def write_output(first, last, arguments):  # type: ignore[no-untyped-def]
    """Arguments: y, gate, weight, bias, out, tokens, C, channels of a head, tokens of a task, bits of eps, storage."""
    if word_at(arguments + 80) == BFLOAT16:
        _write_output(first, last, arguments, BFLOAT16, 2)
    else:
        _write_output(first, last, arguments, FLOAT32, 4)


@inlined
def _write_gradients(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    grad, y, gate, weight = (
        word_at(arguments),
        word_at(arguments + 8),
        word_at(arguments + 16),
        word_at(arguments + 24),
    )
    bias, grad_y, grad_gate, sums = (
        word_at(arguments + 32),
        word_at(arguments + 40),
        word_at(arguments + 48),
        word_at(arguments + 56),
    )
    tokens, channels, width, run = (
        word_at(arguments + 64),
        word_at(arguments + 72),
        word_at(arguments + 80),
        word_at(arguments + 88),
    )
    eps = float_at(arguments + 96)
    share = float32(1.0 / width)
    through = stack_memory(HEAD_BYTES)  # the gradient in the standardised channels of one head
    for task in range(first, last):
        weight_sums = sums + task * 2 * channels * 4
        bias_sums = weight_sums + channels * 4
        for token in range(task * run, min((task + 1) * run, tokens)):
            for head in range(0, channels, width):
                start = (token * channels + head) * size
                mean, rest, scale = _statistics(y + start, width, eps, storage, size)
                plain_sum, along_sum = zeros32(), zeros32()
                for channel in range(0, width, LANES):
                    at, parameter = start + channel * size, (head + channel) * 4
                    plain = ((load(y + at, storage) - mean) - rest) * scale
                    factor = load32(weight + parameter)
                    g = maximum(load(gate + at, storage), -87.0)
                    opening = sigmoid(g)
                    given = load(grad + at, storage)
                    slope = opening * fused(g, 1.0 - opening, 1.0)
                    normed = fused(plain, factor, load32(bias + parameter))
                    store(grad_gate + at, storage, given * normed * slope)
                    given = given * (g * opening)
                    store32(weight_sums + parameter, fused(given, plain, load32(weight_sums + parameter)))
                    store32(bias_sums + parameter, load32(bias_sums + parameter) + given)
                    given = given * factor
                    store32(through + channel * 4, given)
                    plain_sum = plain_sum + given
                    along_sum = fused(given, plain, along_sum)
                average, along = sum_of_lanes(plain_sum) * share, sum_of_lanes(along_sum) * share
                for channel in range(0, width, LANES):
                    at = start + channel * size
                    plain = ((load(y + at, storage) - mean) - rest) * scale
                    store(grad_y + at, storage, ((load32(through + channel * 4) - average) - plain * along) * scale)


@kernel
def write_gradients(first, last, arguments):  # type: ignore[no-untyped-def]
    """Gradients in y and gate, and each task's sums (2, C) for weight and bias.

    Arguments: grad, y, gate, weight, bias, grad_y, grad_gate, sums (tasks, 2, C) of zeros, tokens, C, channels of a
    head, tokens of a task, bits of eps, storage.
    """
    if word_at(arguments + 104) == BFLOAT16:
        _write_gradients(first, last, arguments, BFLOAT16, 2)
    else:
        _write_gradients(first, last, arguments, FLOAT32, 4)
