"""Bi-WKV6 as one differentiable operator, which compilers and checkpointing see as one node."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def differentiable_operator(
    name: str, forward: Callable[..., Tensor], backward: Callable[..., Gradients], device_types: str | None = None
) -> Callable[..., Tensor]:
    """Register `name` and `name`_backward with torch.

    Args:
        name: namespace and name.
        forward: (r, k, v, w, u, cu_seqlens) -> y, contiguous.
        backward: (grad, r, k, v, w, u, cu_seqlens) -> gradients in r, k, v, w, u, contiguous. Nothing but the inputs
            is kept for it.
        device_types: the devices that they run on; None for all.

    Returns:
        The operator, with the arguments of `forward`.
    """

    def run(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        return forward(r, k, v, w, u, cu_seqlens)

    def run_backward(
        grad: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return backward(grad, r, k, v, w, u, cu_seqlens)

    op = torch.library.custom_op(name, run, mutates_args=(), device_types=device_types)
    backward_op = torch.library.custom_op(f"{name}_backward", run_backward, mutates_args=(), device_types=device_types)

    @op.register_fake
    def _(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        return v.new_empty(v.shape)

    @backward_op.register_fake
    def _(grad: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None) -> Gradients:
        grad_r, grad_k, grad_v, grad_w, grad_u = (tensor.new_empty(tensor.shape) for tensor in (r, k, v, w, u))
        return grad_r, grad_k, grad_v, grad_w, grad_u

    def keep_inputs(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*backward_op(grad, *ctx.saved_tensors), None)

    op.register_autograd(differentiate, setup_context=keep_inputs)
    return op
