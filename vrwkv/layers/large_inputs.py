"""Eager inference, in which fresh memory costs more than what is computed in it: results go where others were."""

from contextlib import AbstractContextManager, nullcontext
from typing import TypeGuard

import torch
from torch import Tensor, nn

from vrwkv.layers.hooks import has_hooks, may_keep
from vrwkv.ops.cpu_runtime import memory
from vrwkv.ops.cpu_runtime.eager import runs_eagerly

# A hidden layer larger than this is computed in pieces, which stay in a cache; bytes.
LARGEST, AT_ONCE = 32 << 20, 8 << 20


def reused_memory(x: Tensor) -> AbstractContextManager[None]:
    """Where the blocks of a model run one after another on `x` (B, T, C): ops write into what earlier blocks left."""
    return memory.reusing_memory() if is_eager_inference(x) else nullcontext()


def rows_at_once(x: Tensor, row_bytes: int, *modules: nn.Module) -> int:
    """How many rows to take through `modules` together, each row a token that needs `row_bytes`; 0 for all of them.

    All where the whole is not LARGEST, and wherever somebody else needs it: autograd, a compiler or exporter, autocast,
    another device, or hooks on the modules.

    Args:
        x: (B, T, C), the input.
        row_bytes: size of the largest result of one token.
        modules: what the rows pass through.
    """
    if not _is_large(x, row_bytes, LARGEST) or has_hooks(*modules):
        return 0
    return max(1, AT_ONCE // row_bytes)


def linear_into(linear: nn.Module, x: Tensor, spare: Tensor | None = None, reader: nn.Module | None = None) -> Tensor:
    """linear(x), in memory that is free where the result is no small one.

    Args:
        linear: a layer; anything but a plain product with its weight is called as it stands.
        x: (…, C), the input.
        spare: memory for the result, which nobody reads afterwards: an earlier input.
        reader: the module whose input `spare` was, if any; it may have kept it.
    """
    if not _is_plain_product(linear, x) or not _is_large(x, linear.out_features * x.element_size(), memory.SMALLEST):
        return linear(x)
    shape = (*x.shape[:-1], linear.out_features)
    if (
        spare is None
        or spare.shape != shape
        or spare.dtype != x.dtype
        or not spare.is_contiguous()
        or (reader is not None and may_keep(reader))
    ):
        out = memory.empty_result(shape, x.dtype)
    else:
        out = spare
    torch.mm(x.flatten(0, -2), linear.weight.t(), out=out.flatten(0, -2))
    return out


def _is_plain_product(linear: nn.Module, x: Tensor) -> TypeGuard[nn.Linear]:
    """Whether calling `linear` is a product of `x` with its weight and nothing else, adapters and hooks included."""
    if type(linear) is not nn.Linear or "forward" in vars(linear) or has_hooks(linear) or linear.bias is not None:
        return False
    return type(linear.weight) is nn.Parameter and linear.weight.dtype == x.dtype


def add_residual(x: Tensor, branch: Tensor, *made_by: nn.Module) -> Tensor:
    """x + branch, both (B, T, C); in the memory of `branch`, unless that is small or `made_by` may have kept it."""
    if not _is_large(branch, x.shape[2] * x.element_size(), memory.SMALLEST) or branch.dtype != x.dtype:
        return x + branch
    if any(may_keep(module) for maker in made_by for module in maker.modules()):
        return x + branch
    return branch.add_(x)


def _is_large(x: Tensor, row_bytes: int, least: int) -> bool:
    # In this order: compilers must not be asked about sizes, nor tracers, for which there are none.
    return is_eager_inference(x) and x.numel() // x.shape[-1] * row_bytes > least and x.is_contiguous()


def is_eager_inference(x: Tensor) -> bool:
    """Whether nobody but the caller sees what becomes of `x`: plain memory of the CPU, no gradients, no autocast."""
    if not runs_eagerly(x) or x.device.type != "cpu":
        return False
    return not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
