"""The end of RWKV-6's mixer: its output, normalised per head and gated."""

from torch import Tensor

from vrwkv.ops.argument_checks import check_floating, check_same_dtype, check_shape
from vrwkv.ops.cpu_runtime.refusal import refuse_cpu
from vrwkv.ops.dispatch import Backend, register_backends, select_backend
from vrwkv.ops.head_norm_gate.cpu import head_norm_gate_cpu
from vrwkv.ops.head_norm_gate.naive import head_norm_gate_naive
from vrwkv.ops.head_norm_gate.portable import head_norm_gate_torch

__all__ = ["head_norm_gate"]

register_backends(
    "head_norm_gate",
    Backend("cpu", head_norm_gate_cpu, refuse_cpu),
    Backend("torch", head_norm_gate_torch),
    Backend("naive", head_norm_gate_naive, automatic=False),
)


def head_norm_gate(
    y: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    num_heads: int,
    eps: float,
    backend: str | None = None,
) -> Tensor:
    """(layer norm of each head of y · weight + bias) · silu(gate), as RWKV-6 ends its mixer (arXiv 2404.05892).

    Args:
        y: (..., C), heads of C / num_heads consecutive channels.
        gate: same shape and dtype.
        weight, bias: (C,), of any floating-point dtype.
        num_heads: a divisor of C.
        eps: added to the variance of a head.
        backend: "cpu", "torch" or "naive"; by default VRWKV_BACKEND, else the best that can run.

    Returns:
        Shape and dtype of `y`; statistics in float32, or float64 for float64.

    Raises:
        ValueError: shapes, dtypes or devices differ, num_heads does not divide C, or a backend that cannot run.
    """
    check_floating(y=y, gate=gate, weight=weight, bias=bias)
    check_shape("gate", gate, tuple(y.shape), "that of y")
    check_same_dtype(y=y, gate=gate)
    channels = y.shape[-1] if y.ndim else 0
    check_shape("weight", weight, (channels,), "(C,)")
    check_shape("bias", bias, (channels,), "(C,)")
    if num_heads < 1 or channels % num_heads:
        raise ValueError(f"num_heads must divide the {channels} channels, not be {num_heads}")
    return select_backend("head_norm_gate", backend, y).run(y, gate, weight, bias, num_heads, eps)
