"""The compiled CPU backend of the norm per head with its gate; its loops are in cpu_loops.py.

Compilers fuse plain torch with what stands around it, so under torch.compile, too, the portable form runs.
"""

import struct
from typing import Any

import torch
from torch import Tensor

from vrwkv.ops.cpu_runtime.eager import records_gradient, runs_eagerly
from vrwkv.ops.cpu_runtime.memory import empty_result
from vrwkv.ops.exporting import exporting
from vrwkv.ops.head_norm_gate.portable import head_norm_gate_torch

LANES = 16
MOST_HEAD_CHANNELS = 1024  # what the backward loop keeps on its stack
MOST_SUMS = 64  # tasks of the backward pass, each with sums of its own


def head_norm_gate_cpu(y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, num_heads: int, eps: float) -> Tensor:
    """The norm per head with its gate on the CPU; arguments as `vrwkv.ops.head_norm_gate`."""
    head_channels = y.shape[-1] // num_heads
    fits = head_channels % LANES == 0 and 0 < head_channels <= MOST_HEAD_CHANNELS
    if not runs_eagerly(y) or exporting() or not fits or y.numel() == 0 or y.dtype == torch.float16:
        return head_norm_gate_torch(y, gate, weight, bias, num_heads, eps)
    if records_gradient(y, gate, weight, bias):
        return _HeadNormGate.apply(y, gate, weight, bias, num_heads, eps)
    return _forward(y.contiguous(), gate.contiguous(), weight, bias, num_heads, eps)


def _sizes(y: Tensor, num_heads: int, eps: float, tokens_per_task: int) -> tuple[int, ...]:
    """Tokens, C, channels of a head, tokens of a task, the bits of eps, storage."""
    from vrwkv.ops.cpu_runtime.kernel import STORAGE

    channels = y.shape[-1]
    bits = int.from_bytes(struct.pack("<f", eps), "little")
    return y.numel() // channels, channels, channels // num_heads, tokens_per_task, bits, STORAGE[y.dtype]


def _forward(y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, num_heads: int, eps: float) -> Tensor:
    out = empty_result(y.shape, y.dtype)
    write_gated(y, gate, weight.float().contiguous(), bias.float().contiguous(), num_heads, eps, out)
    return out


def write_gated(y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, num_heads: int, eps: float, out: Tensor) -> None:
    """The same into `out`, which may be `y` or `gate`; all contiguous, weight and bias float32."""
    from vrwkv.ops.head_norm_gate.cpu_loops import write_output

    sizes = _sizes(y, num_heads, eps, 16)
    write_output(
        -(-sizes[0] // 16), y, gate, weight, bias, out, *sizes, elements=y.numel(),
    )  # fmt: skip


class _HeadNormGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, num_heads: int, eps: float) -> Tensor:
        y, gate = y.contiguous(), gate.contiguous()
        ctx.save_for_backward(y, gate, weight, bias)
        ctx.num_heads, ctx.eps = num_heads, eps
        return _forward(y, gate, weight, bias, num_heads, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from vrwkv.ops.head_norm_gate.cpu_loops import write_gradients

        y, gate, weight, bias = ctx.saved_tensors
        grad_y, grad_gate = torch.empty_like(y), torch.empty_like(gate)
        tokens = y.numel() // y.shape[-1]
        tokens_per_task = max(16, -(-tokens // MOST_SUMS))
        tasks = -(-tokens // tokens_per_task)
        sums = y.new_zeros((tasks, 2, y.shape[-1]), dtype=torch.float32)
        write_gradients(
            tasks, grad.contiguous(), y, gate, weight.float().contiguous(), bias.float().contiguous(),
            grad_y, grad_gate, sums, *_sizes(y, ctx.num_heads, ctx.eps, tokens_per_task), elements=2 * y.numel(),
        )  # fmt: skip
        grad_weight, grad_bias = sums.sum(0, dtype=torch.float64)
        return grad_y, grad_gate, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype), None, None
