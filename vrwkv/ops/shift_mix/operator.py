"""The portable backend of shift-and-mix as one differentiable operator; exported, the same in standard operators."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vrwkv.ops.exporting import standard_operators_only
from vrwkv.ops.shift_mix.exported import shift_mix_exported
from vrwkv.ops.shift_mix.portable import compute_dtype, shift_mix_backward, shift_mix_forward


def shift_mix_torch(
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
    """Shift-and-mix with plain torch ops on any device; arguments as `shift_mix_naive`.

    Returns (M, B, T, C), or, exported, M tensors (B, T, C): one operator less over all of them.
    """
    if standard_operators_only():
        return shift_mix_exported(x, share, correction, norm_weight, norm_bias, norm_eps, grid, shift, bounds)
    return _shift_mix(x, share, correction, norm_weight, norm_bias, norm_eps, grid, shift, bounds)[0]


def empty_forward(
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
    """What a forward operator returns, without its values: for compilers, whatever the backend."""
    statistics = (0,) if norm_weight is None else (3, *x.shape[:2])
    return x.new_empty((share.shape[0], *x.shape)), x.new_empty(statistics, dtype=compute_dtype(x))


def empty_backward(
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
    """What a backward operator returns, without its values."""
    inputs = (x, share, correction, norm_weight, norm_bias)
    return [tensor.new_empty(tensor.shape) for tensor in inputs if tensor is not None]


@torch.library.custom_op("vrwkv::shift_mix", mutates_args=())
def _shift_mix(
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
    return shift_mix_forward(x, share, correction, norm_weight, norm_bias, norm_eps, grid, shift, bounds)


@torch.library.custom_op("vrwkv::shift_mix_backward", mutates_args=())
def _shift_mix_backward(
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
    return shift_mix_backward(grad, x, statistics, share, correction, norm_weight, norm_bias, grid, shift, bounds)


def save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    """Keep the inputs and the norm's statistics: nothing of the size of the output."""
    x, share, correction, norm_weight, norm_bias, _, ctx.grid, ctx.shift, ctx.bounds = inputs
    ctx.save_for_backward(x, output[1], share, correction, norm_weight, norm_bias)
    ctx.mark_non_differentiable(output[1])


def in_place_of_arguments(gradients: list[Tensor], *arguments: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients of the arguments that are there, None for the others and for the five that are not tensors."""
    given = iter(gradients)
    return (*(None if argument is None else next(given) for argument in arguments), None, None, None, None)


def _differentiate(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    x, statistics, *parameters = ctx.saved_tensors
    gradients = _shift_mix_backward(grad, x, statistics, *parameters, ctx.grid, ctx.shift, ctx.bounds)
    return in_place_of_arguments(gradients, x, *parameters)


_shift_mix.register_fake(empty_forward)
_shift_mix_backward.register_fake(empty_backward)
_shift_mix.register_autograd(_differentiate, setup_context=save_for_backward)
