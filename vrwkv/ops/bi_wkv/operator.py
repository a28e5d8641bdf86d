"""Bi-WKV as one differentiable operator, which compilers and checkpointing see as one node."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def differentiable_operator(
    name: str, forward: Callable[..., Tensor], backward: Callable[..., list[Tensor]], device_types: str | None = None
) -> Callable[..., Tensor]:
    """Register `name` and `name`_backward with torch.

    Args:
        name: namespace and name.
        forward: (decay, bonus, k, v, gate, cu_seqlens) -> y, contiguous.
        backward: (grad, decay, bonus, k, v, gate, cu_seqlens) -> gradients in decay, bonus, k, v and, if there is one,
            gate, contiguous. Nothing but the inputs is kept for it.
        device_types: the devices that they run on; None for all.

    Returns:
        The operator, with the arguments of `forward`.
    """

    def run(
        decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None
    ) -> Tensor:
        return forward(decay, bonus, k, v, gate, cu_seqlens)

    def run_backward(
        grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None
    ) -> list[Tensor]:
        return backward(grad, decay, bonus, k, v, gate, cu_seqlens)

    op = torch.library.custom_op(name, run, mutates_args=(), device_types=device_types)
    backward_op = torch.library.custom_op(f"{name}_backward", run_backward, mutates_args=(), device_types=device_types)

    @op.register_fake
    def _(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
        return v.new_empty(v.shape)

    @backward_op.register_fake
    def _(
        grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None
    ) -> list[Tensor]:
        inputs = (decay, bonus, k, v) if gate is None else (decay, bonus, k, v, gate)
        return [tensor.new_empty(tensor.shape) for tensor in inputs]

    def keep_inputs(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        decay, bonus, k, v, gate, cu_seqlens = ctx.saved_tensors
        gradients = backward_op(grad, decay, bonus, k, v, gate, cu_seqlens)
        return (*gradients, *([None] if gate is None else []), None)

    op.register_autograd(differentiate, setup_context=keep_inputs)
    return op
