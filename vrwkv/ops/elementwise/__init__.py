"""Element-wise parts of a block's branches, each in one pass over memory: sigmoid gate, squared ReLU and tanh."""

import torch
from torch import Tensor

from vrwkv.ops.argument_checks import check_floating, check_same_dtype, check_shape
from vrwkv.ops.cpu_runtime.refusal import refuse_cpu
from vrwkv.ops.dispatch import Backend, register_backends, select_backend
from vrwkv.ops.elementwise.cpu import pays_from, sigmoid_gate_cpu, squared_relu_cpu, tanh_cpu
from vrwkv.ops.elementwise.naive import sigmoid_gate_naive, squared_relu_naive, tanh_naive
from vrwkv.ops.elementwise.portable import sigmoid_gate_torch, squared_relu_torch, tanh_torch
from vrwkv.ops.exporting import transformed

__all__ = ["sigmoid_gate", "squared_relu", "tanh"]

register_backends(
    "sigmoid_gate",
    Backend("cpu", sigmoid_gate_cpu, refuse_cpu, worthwhile=lambda y: pays_from(1 << 16, y)),
    Backend("torch", sigmoid_gate_torch),
    Backend("naive", sigmoid_gate_naive, automatic=False),
)
register_backends(
    "squared_relu",
    Backend("cpu", squared_relu_cpu, refuse_cpu, worthwhile=lambda x: pays_from(1 << 18, x)),
    Backend("torch", squared_relu_torch),
    Backend("naive", squared_relu_naive, automatic=False),
)
register_backends(
    "tanh",
    Backend("cpu", tanh_cpu, refuse_cpu, worthwhile=lambda x: pays_from(1 << 15, x)),
    Backend("torch", tanh_torch),
    Backend("naive", tanh_naive, automatic=False),
)


def sigmoid_gate(gate: Tensor, y: Tensor, *, backend: str | None = None) -> Tensor:
    """sigmoid(gate) · y, element by element: the receptance of Vision-RWKV (arXiv 2403.02308, Eq. 3 and 4).

    Args:
        gate: any shape.
        y: same shape and dtype.
        backend: "cpu", "torch" or "naive"; by default VRWKV_BACKEND, else the best that can run.

    Returns:
        Shape and dtype of `y`; computed in float32, or float64 for float64, by the compiled backend.

    Raises:
        ValueError: shapes, dtypes or devices differ, or a backend that cannot run.
    """
    check_floating(y=y, gate=gate)
    check_shape("gate", gate, tuple(y.shape), "that of y")
    check_same_dtype(y=y, gate=gate)
    return select_backend("sigmoid_gate", backend, y).run(gate, y)


def squared_relu(x: Tensor, *, inplace: bool = False, backend: str | None = None) -> Tensor:
    """max(x, 0)², element by element: the activation of the channel mix (arXiv 2403.02308, Eq. 4).

    Args:
        x: any shape.
        inplace: whether the memory of `x` may hold the result, where no gradient is recorded.
        backend: as in `sigmoid_gate`.

    Returns:
        Shape and dtype of `x`.

    Raises:
        ValueError: `x` is not floating-point, or a backend that cannot run.
    """
    check_floating(x=x)
    inplace = inplace and not (torch.is_grad_enabled() and x.requires_grad) and not transformed()
    return select_backend("squared_relu", backend, x).run(x, inplace)


def tanh(x: Tensor, *, inplace: bool = False, backend: str | None = None) -> Tensor:
    """The hyperbolic tangent, element by element: inside the low-rank corrections of RWKV-6 (arXiv 2404.05892).

    Args:
        x: any shape.
        inplace: whether the memory of `x` may hold the result, where no gradient is recorded.
        backend: as in `sigmoid_gate`.

    Returns:
        Shape and dtype of `x`.

    Raises:
        ValueError: `x` is not floating-point, or a backend that cannot run.
    """
    check_floating(x=x)
    inplace = inplace and not (torch.is_grad_enabled() and x.requires_grad) and not transformed()
    return select_backend("tanh", backend, x).run(x, inplace)
