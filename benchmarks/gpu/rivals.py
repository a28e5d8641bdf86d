"""What the Triton kernels are compared with: the portable backend compiled by Inductor, and flash-linear-attention."""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu.cases import Case
from gpu.verify import Function
from vrwkv.ops.bi_wkv.portable import portable_backward as bi_wkv_backward
from vrwkv.ops.bi_wkv.portable import portable_forward as bi_wkv_forward
from vrwkv.ops.bi_wkv6.portable import portable_backward as bi_wkv6_backward
from vrwkv.ops.bi_wkv6.portable import portable_forward as bi_wkv6_forward

RIVALS = {"bi_wkv": ("torch, compiled",), "bi_wkv6": ("torch, compiled", "flash-linear-attention"), "shift_mix": ()}
LARGEST_ERROR = 0.02  # of a rival, relative to the largest value: it must compute the same thing, in its own precision
PORTABLE = {"bi_wkv": (bi_wkv_forward, bi_wkv_backward), "bi_wkv6": (bi_wkv6_forward, bi_wkv6_backward)}


class NotInstalled(Exception):
    """The rival is a package that is not there."""


def rival(name: str, case: Case) -> Function:
    """The rival as a function of the inputs of `case`.

    Raises:
        NotInstalled: as it says.
    """
    if name == "flash-linear-attention":
        return flash_linear_attention()
    torch._dynamo.reset()  # beyond eight shapes of one function it would run the ninth uncompiled
    forward, backward = (torch.compile(function, dynamic=False) for function in PORTABLE[case.op])
    missing = 2 if case.op == "bi_wkv" and not case.gate else 1  # optional arguments that are None
    return lambda inputs: (CompiledPortable.apply(forward, backward, missing, *inputs),)


class CompiledPortable(torch.autograd.Function):
    """The portable backend without the operator around it, which would hide it from the compiler."""

    @staticmethod
    def forward(ctx: Any, forward: Callable, backward: Callable, missing: int, *inputs: Tensor) -> Tensor:
        """The op; only its inputs are kept."""
        ctx.save_for_backward(*inputs)
        ctx.backward_function, ctx.missing = backward, missing
        return forward(*inputs, *[None] * missing)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients in the inputs."""
        return (None, None, None, *ctx.backward_function(grad, *ctx.saved_tensors, *[None] * ctx.missing))


def flash_linear_attention() -> Function:
    """Bi-WKV6 by the causal chunk_rwkv6 (fla.ops.rwkv6): once forward with the bonus, once reversed without it.

    Raises:
        NotInstalled: there is no package `fla`.
    """
    if importlib.util.find_spec("fla") is None:
        raise NotInstalled("not installed (pip install flash-linear-attention)")
    from fla.ops.rwkv6 import chunk_rwkv6

    def both_directions(inputs: list[Tensor]) -> tuple[Tensor, ...]:
        *per_token, raw_decay, bonus = inputs
        forward = [*per_token, -torch.exp(raw_decay.float())]  # its w is the logarithm of the decay
        backward = [tensor.flip(1) for tensor in forward]
        past = chunk_rwkv6(*forward, bonus, scale=1.0)[0]
        future = chunk_rwkv6(*backward, torch.zeros_like(bonus), scale=1.0)[0]
        return (past + future.flip(1),)

    return both_directions
