"""The compiled CPU backends of the element-wise ops; their loops are in cpu_loops.py.

Compilers fuse plain torch with what stands around it, so under torch.compile, too, the portable form runs.
"""

from typing import Any

import torch
from torch import Tensor

from vrwkv.ops.cpu_runtime.eager import records_gradient, runs_eagerly
from vrwkv.ops.cpu_runtime.memory import empty_result
from vrwkv.ops.elementwise.portable import sigmoid_gate_torch, squared_relu_torch, tanh_torch
from vrwkv.ops.exporting import exporting

FEWEST = 16  # elements that one vector holds


def _portable(x: Tensor) -> bool:
    """Whether plain torch does better, or has to do."""
    return not runs_eagerly(x) or exporting() or x.numel() < FEWEST or x.dtype == torch.float16


def pays_from(elements: int, x: Tensor) -> bool:
    """Whether `x` has so many elements that a compiled loop makes up for its slower call; True where it is not called.

    A compiler must not be asked: it would have to make a graph for each answer.
    """
    return not runs_eagerly(x) or x.numel() >= elements


def sigmoid_gate_cpu(gate: Tensor, y: Tensor) -> Tensor:
    """sigmoid(gate) · y on the CPU; arguments as `vrwkv.ops.sigmoid_gate`."""
    if _portable(y):
        return sigmoid_gate_torch(gate, y)
    if records_gradient(gate, y):
        return _SigmoidGate.apply(gate, y)
    return _sigmoid_gate(gate.contiguous(), y.contiguous())


def _sigmoid_gate(gate: Tensor, y: Tensor) -> Tensor:
    from vrwkv.ops.elementwise.cpu_loops import gate_forward

    out = empty_result(y.shape, y.dtype)
    tasks, *sizes = _tasks(y)
    gate_forward(tasks, gate, y, out, *sizes, None, elements=sizes[0])
    return out


def squared_relu_cpu(x: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)² on the CPU; arguments as `vrwkv.ops.squared_relu`."""
    if _portable(x):
        return squared_relu_torch(x, inplace and runs_eagerly(x) and not exporting())
    # The loop takes whole vectors, and would square the last elements of a broken one twice.
    if inplace and x.is_contiguous() and x.numel() % FEWEST == 0:
        return _squared_relu(x, x)
    return _SquaredRelu.apply(x)


def _squared_relu(x: Tensor, out: Tensor) -> Tensor:
    from vrwkv.ops.elementwise.cpu_loops import relu_forward

    tasks, *sizes = _tasks(x)
    relu_forward(tasks, x, out, *sizes, elements=sizes[0])
    return out


def tanh_cpu(x: Tensor, inplace: bool = False) -> Tensor:
    """The hyperbolic tangent on the CPU; arguments as `vrwkv.ops.tanh`."""
    if _portable(x):
        return tanh_torch(x, inplace and runs_eagerly(x) and not exporting())
    # As in squared_relu_cpu, only whole vectors may be overwritten.
    if inplace and x.is_contiguous() and x.numel() % FEWEST == 0:
        return _tanh(x, x)
    return _Tanh.apply(x)


def _tanh(x: Tensor, out: Tensor) -> Tensor:
    from vrwkv.ops.elementwise.cpu_loops import tanh_forward

    tasks, *sizes = _tasks(x)
    tanh_forward(tasks, x, out, *sizes, elements=sizes[0])
    return out


def _tasks(x: Tensor) -> tuple[int, int, int]:
    """Tasks, elements and storage."""
    from vrwkv.ops.cpu_runtime.kernel import STORAGE
    from vrwkv.ops.elementwise.cpu_loops import BLOCK

    return -(-x.numel() // BLOCK), x.numel(), STORAGE[x.dtype]


class _SigmoidGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, y: Tensor) -> Tensor:
        gate, y = gate.contiguous(), y.contiguous()
        ctx.save_for_backward(gate, y)
        return _sigmoid_gate(gate, y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        from vrwkv.ops.elementwise.cpu_loops import gate_backward

        gate, y = ctx.saved_tensors
        grad_gate, grad_y = torch.empty_like(gate), torch.empty_like(y)
        tasks, *sizes = _tasks(y)
        gate_backward(tasks, grad.contiguous(), gate, y, grad_gate, grad_y, *sizes, elements=sizes[0])
        return grad_gate, grad_y


class _SquaredRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        return _squared_relu(x, torch.empty_like(x))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        from vrwkv.ops.elementwise.cpu_loops import relu_backward

        (x,) = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        tasks, *sizes = _tasks(x)
        relu_backward(tasks, grad.contiguous(), x, grad_x, *sizes, elements=sizes[0])
        return grad_x


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        y = _tanh(x, torch.empty_like(x))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        from vrwkv.ops.elementwise.cpu_loops import tanh_backward

        (y,) = ctx.saved_tensors
        grad_x = torch.empty_like(y)
        tasks, *sizes = _tasks(y)
        tanh_backward(tasks, grad.contiguous(), y, grad_x, *sizes, elements=sizes[0])
        return grad_x
