"""Compiled element-wise loops; a task is BLOCK elements. The last 16 of an array may be computed twice."""

from numba import float32

from vrwkv.ops.cpu_runtime.functions import LOG2_E, ROUND32, inlined, load, sigmoid, store
from vrwkv.ops.cpu_runtime.kernel import kernel
from vrwkv.ops.cpu_runtime.vectors import (
    BFLOAT16,
    FLOAT32,
    LANES,
    fused,
    maximum,
    spread,
    times_power_of_two,
    word_at,
)

BLOCK = 8192


@inlined
def _gate_forward(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    gate, y, out, count = (
        word_at(arguments),
        word_at(arguments + 8),
        word_at(arguments + 16),
        word_at(arguments + 24),
    )
    residual = word_at(arguments + 40)
    for start in range(first * BLOCK, min(last * BLOCK, count), LANES):
        offset = min(start, count - LANES) * size
        gated = sigmoid(load(gate + offset, storage)) * load(y + offset, storage)
        store(out + offset, storage, gated if residual == 0 else gated + load(residual + offset, storage))


@kernel
def gate_forward(first, last, arguments):  # type: ignore[no-untyped-def]
    """Arguments: gate, y, out, elements (at least 16), storage, residual (or 0), which is added; it may be `out`."""
    if word_at(arguments + 32) == BFLOAT16:
        _gate_forward(first, last, arguments, BFLOAT16, 2)
    else:
        _gate_forward(first, last, arguments, FLOAT32, 4)


@inlined
def _gate_backward(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    grad, gate, y = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16)
    grad_gate, grad_y, count = word_at(arguments + 24), word_at(arguments + 32), word_at(arguments + 40)
    for start in range(first * BLOCK, min(last * BLOCK, count), LANES):
        offset = min(start, count - LANES) * size
        opening = sigmoid(load(gate + offset, storage))
        through = load(grad + offset, storage) * opening
        store(grad_y + offset, storage, through)
        store(grad_gate + offset, storage, through * (1.0 - opening) * load(y + offset, storage))


@kernel
def gate_backward(first, last, arguments):  # type: ignore[no-untyped-def]
    """Arguments: grad, gate, y, grad_gate, grad_y, elements (at least 16), storage."""
    if word_at(arguments + 48) == BFLOAT16:
        _gate_backward(first, last, arguments, BFLOAT16, 2)
    else:
        _gate_backward(first, last, arguments, FLOAT32, 4)


@inlined
def _relu_forward(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    x, out, count = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16)
    for start in range(first * BLOCK, min(last * BLOCK, count), LANES):
        offset = min(start, count - LANES) * size
        positive = maximum(load(x + offset, storage), 0.0)
        store(out + offset, storage, positive * positive)


@kernel
def relu_forward(first, last, arguments):  # type: ignore[no-untyped-def]
    """Arguments: x, out, elements (at least 16), storage."""
    if word_at(arguments + 24) == BFLOAT16:
        _relu_forward(first, last, arguments, BFLOAT16, 2)
    else:
        _relu_forward(first, last, arguments, FLOAT32, 4)


@inlined
def _relu_backward(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    grad, x, grad_x, count = (
        word_at(arguments),
        word_at(arguments + 8),
        word_at(arguments + 16),
        word_at(arguments + 24),
    )
    for start in range(first * BLOCK, min(last * BLOCK, count), LANES):
        offset = min(start, count - LANES) * size
        slope = maximum(load(x + offset, storage), 0.0) * 2.0
        store(grad_x + offset, storage, load(grad + offset, storage) * slope)


@kernel
def relu_backward(first, last, arguments):  # type: ignore[no-untyped-def]
    """Arguments: grad, x, grad_x, elements (at least 16), storage."""
    if word_at(arguments + 32) == BFLOAT16:
        _relu_backward(first, last, arguments, BFLOAT16, 2)
    else:
        _relu_backward(first, last, arguments, FLOAT32, 4)


@inlined
def _tanh(x):  # type: ignore[no-untyped-def]
    """t / (t + 2) for t = e^2x - 1; NaN stays NaN."""
    x = maximum(0.0 - maximum(0.0 - x, -10.0), -10.0)  # tanh 10 rounds to 1
    doubled = x * (2.0 * LOG2_E)
    rounded = doubled + ROUND32
    r = doubled - (rounded - ROUND32)
    # (2^r - 1) / r on [-1/2, 1/2], within 2.1e-8 of its value, so that t keeps its digits where x is near 0.
    p = fused(r, 0.00015461447765119374, 0.0013390866806730628)
    p = fused(p, r, 0.009618056938052177)
    p = fused(p, r, 0.055503569543361664)
    p = fused(p, r, 0.24022650718688965)
    p = fused(p, r, 0.6931471824645996)
    power = times_power_of_two(spread(float32(1.0)), rounded)
    t = fused(power, p * r, power - 1.0)
    return t / (t + 2.0)


@inlined
def _tanh_forward(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    x, out, count = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16)
    for start in range(first * BLOCK, min(last * BLOCK, count), LANES):
        offset = min(start, count - LANES) * size
        store(out + offset, storage, _tanh(load(x + offset, storage)))


@kernel
def tanh_forward(first, last, arguments):  # type: ignore[no-untyped-def]
    """Arguments: x, out, elements (at least 16), storage."""
    if word_at(arguments + 24) == BFLOAT16:
        _tanh_forward(first, last, arguments, BFLOAT16, 2)
    else:
        _tanh_forward(first, last, arguments, FLOAT32, 4)


@inlined
def _tanh_backward(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    grad, y, grad_x, count = (
        word_at(arguments),
        word_at(arguments + 8),
        word_at(arguments + 16),
        word_at(arguments + 24),
    )
    for start in range(first * BLOCK, min(last * BLOCK, count), LANES):
        offset = min(start, count - LANES) * size
        value = load(y + offset, storage)
        store(grad_x + offset, storage, load(grad + offset, storage) * (1.0 - value * value))


@kernel
def tanh_backward(first, last, arguments):  # type: ignore[no-untyped-def]
    """Arguments: grad, y = tanh(x), grad_x, elements (at least 16), storage."""
    if word_at(arguments + 32) == BFLOAT16:
        _tanh_backward(first, last, arguments, BFLOAT16, 2)
    else:
        _tanh_backward(first, last, arguments, FLOAT32, 4)
