"""The compiled CPU backend of shift-and-mix; its loops are in cpu_forward.py and cpu_backward.py."""

import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vrwkv.ops.cpu_runtime.eager import records_gradient, runs_eagerly
from vrwkv.ops.cpu_runtime.memory import empty_result
from vrwkv.ops.cpu_runtime.refusal import refuse_cpu
from vrwkv.ops.exporting import standard_operators_only
from vrwkv.ops.shift_mix.operator import (
    empty_backward,
    empty_forward,
    in_place_of_arguments,
    save_for_backward,
    shift_mix_torch,
)

FEWEST_CHANNELS, MOST_CHANNELS = 16, 8192
MOST_SUMS = 64  # tasks of the backward pass, each with sums of its own


def refuse_shift_mix_cpu(*tensors: Tensor) -> str | None:
    """Why the compiled loops cannot run; None if they can."""
    for tensor in tensors:
        if not FEWEST_CHANNELS <= tensor.shape[-1] <= MOST_CHANNELS:
            return f"it takes from {FEWEST_CHANNELS} to {MOST_CHANNELS} channels, not {tensor.shape[-1]}"
    return refuse_cpu(*tensors)


def shift_mix_cpu(
    x: Tensor,
    share: Tensor,
    correction: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    grid: Sequence[int],
    shift: int,
    bounds: Sequence[int],
) -> Tensor | tuple[Tensor, ...]:
    """Shift-and-mix on the CPU, compiled for its vector units; arguments as `shift_mix_naive`."""
    if standard_operators_only():
        return shift_mix_torch(x, share, correction, norm_weight, norm_bias, norm_eps, grid, shift, bounds)
    if runs_eagerly(x):
        inputs = (x, share, correction, norm_weight, norm_bias, norm_eps, grid, shift, bounds)
        return _Eager.apply(*inputs)[:-1] if records_gradient(*inputs[:5]) else _forward(*inputs)[0]
    return _shift_mix_cpu(x, share, correction, norm_weight, norm_bias, norm_eps, grid, shift, bounds)[0]


def _stored(tensor: Tensor | None) -> Tensor | None:
    """Contiguous, in a type that the loops read and write."""
    if tensor is None:
        return None
    return (tensor.float() if tensor.dtype == torch.float16 else tensor).contiguous()


def _parameter(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float().contiguous()


def _forward(
    x: Tensor,
    share: Tensor,
    correction: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    grid: Sequence[int],
    shift: int,
    bounds: Sequence[int],
) -> tuple[Tensor, Tensor]:
    from vrwkv.ops.cpu_runtime.kernel import STORAGE
    from vrwkv.ops.shift_mix import cpu_forward as loops
    from vrwkv.ops.shift_mix.cpu_channels import channel_tables

    batch, image_tokens, channels = x.shape
    total, count = batch * image_tokens, share.shape[0]
    tasks = -(-total // loops.TOKENS_PER_TASK)
    runs, masks, fresh = channel_tables(channels, tuple(bounds))
    tokens, amounts = _stored(x), _stored(correction)
    assert tokens is not None
    storage = STORAGE[tokens.dtype]
    statistics = x.new_empty((0,) if norm_weight is None else (3, batch, image_tokens), dtype=torch.float32)
    if norm_weight is not None:
        eps = int.from_bytes(struct.pack("<f", norm_eps), "little")
        loops.norm_statistics(tasks, tokens, statistics, fresh, total, channels, eps, storage, None, elements=x.numel())
    mixtures = empty_result((count, *x.shape), tokens.dtype)
    loops.write_mixtures(
        tasks, tokens, _parameter(share), amounts, _parameter(norm_weight), _parameter(norm_bias),
        statistics if statistics.numel() else None, mixtures, runs, masks, total, image_tokens, channels, count,
        grid[0], grid[1], shift, len(runs), storage, elements=mixtures.numel(),
    )  # fmt: skip
    return mixtures.to(x.dtype), statistics


def _backward(
    gradients: Sequence[Tensor],
    x: Tensor,
    statistics: Tensor,
    share: Tensor,
    correction: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    grid: Sequence[int],
    shift: int,
    bounds: Sequence[int],
) -> list[Tensor]:
    from vrwkv.ops.cpu_runtime.kernel import STORAGE
    from vrwkv.ops.shift_mix import cpu_backward as loops
    from vrwkv.ops.shift_mix.cpu_channels import channel_tables

    batch, image_tokens, channels = x.shape
    total, count = batch * image_tokens, share.shape[0]
    tokens_per_task = max(16, -(-total // MOST_SUMS))
    tasks = -(-total // tokens_per_task)
    runs, masks, fresh = channel_tables(channels, tuple(bounds))
    tokens, amounts = _stored(x), _stored(correction)
    assert tokens is not None
    stored = [_stored(gradient) for gradient in gradients]
    addresses = torch.tensor([gradient.data_ptr() for gradient in stored if gradient is not None])
    grad_x = torch.empty_like(tokens)
    grad_correction = None if amounts is None else torch.empty_like(amounts)
    sums = x.new_zeros((tasks, count + 2, channels), dtype=torch.float32)
    loops.write_gradients(
        tasks, addresses, tokens, _parameter(share), amounts, _parameter(norm_weight), _parameter(norm_bias),
        statistics if statistics.numel() else None, grad_x, grad_correction, sums, runs, masks, fresh, total,
        image_tokens, channels, count, grid[0], grid[1], shift, tokens_per_task, len(runs), STORAGE[tokens.dtype],
        elements=count * x.numel(),
    )  # fmt: skip
    summed = sums.sum(0, dtype=torch.float64)
    found = [grad_x.to(x.dtype), summed[:count].to(share.dtype)]
    if correction is not None and grad_correction is not None:
        found.append(grad_correction.to(correction.dtype))
    for row, parameter in enumerate((norm_weight, norm_bias), start=count):
        if parameter is not None:
            found.append(summed[row].to(parameter.dtype))
    return found


class _Eager(torch.autograd.Function):
    """The operator without torch's dispatcher; the mixtures are separate, so that nobody stacks their gradients."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        mixtures, statistics = _forward(*inputs)
        save_for_backward(ctx, inputs, (mixtures, statistics))
        return *mixtures.unbind(), statistics

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, statistics, *parameters = ctx.saved_tensors
        found = _backward(gradients[:-1], x, statistics, *parameters, ctx.grid, ctx.shift, ctx.bounds)  # type: ignore[call-arg]
        return in_place_of_arguments(found, x, *parameters)


_shift_mix_cpu = torch.library.custom_op("vrwkv::shift_mix_cpu", _forward, mutates_args=(), device_types="cpu")


@torch.library.custom_op("vrwkv::shift_mix_cpu_backward", mutates_args=(), device_types="cpu")
def _shift_mix_cpu_backward(
    grad: Tensor,
    x: Tensor,
    statistics: Tensor,
    share: Tensor,
    correction: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    grid: Sequence[int],
    shift: int,
    bounds: Sequence[int],
) -> list[Tensor]:
    return _backward(grad.unbind(), x, statistics, share, correction, norm_weight, norm_bias, grid, shift, bounds)


def _differentiate(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    x, statistics, *parameters = ctx.saved_tensors
    gradients = _shift_mix_cpu_backward(grad, x, statistics, *parameters, ctx.grid, ctx.shift, ctx.bounds)
    return in_place_of_arguments(gradients, x, *parameters)


_shift_mix_cpu.register_fake(empty_forward)
_shift_mix_cpu_backward.register_fake(empty_backward)
_shift_mix_cpu.register_autograd(_differentiate, setup_context=save_for_backward)
