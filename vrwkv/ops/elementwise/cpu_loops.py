"""Compiled element-wise loops; a task is BLOCK elements. The last 16 of an array may be computed twice."""

from vrwkv.ops.cpu_runtime.functions import inlined, load, sigmoid, store
from vrwkv.ops.cpu_runtime.kernel import kernel
from vrwkv.ops.cpu_runtime.vectors import BFLOAT16, FLOAT32, LANES, maximum, word_at

BLOCK = 8192


@inlined
def _gate_forward(first, last, arguments, storage, size):  # type: ignore[no-untyped-def]
    gate, y, out, count = (
        word_at(arguments),
        word_at(arguments + 8),
        word_at(arguments + 16),
        word_at(arguments + 24),
    )
    for start in range(first * BLOCK, min(last * BLOCK, count), LANES):
        offset = min(start, count - LANES) * size
        store(out + offset, storage, sigmoid(load(gate + offset, storage)) * load(y + offset, storage))


@kernel
def gate_forward(first, last, arguments):  # type: ignore[no-untyped-def]
    """Arguments: gate, y, out, elements (at least 16), storage."""
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
