"""The portable backend of shift-and-mix as one differentiable operator; exported, the same in standard operators."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from vrwkv.ops.exporting import exporting
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
    if exporting():
        return _written_out(x, share, correction, norm_weight, norm_bias, norm_eps, grid, shift, bounds)
    return _shift_mix(x, share, correction, norm_weight, norm_bias, norm_eps, grid, shift, bounds)[0]


def _written_out(
    x: Tensor,
    share: Tensor,
    correction: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    grid: Sequence[int],
    shift: int,
    bounds: Sequence[int],
) -> tuple[Tensor, ...]:
    """Without writes in place and without statistics: what an exporter can trace for any number of tokens."""
    compute = compute_dtype(x)
    z = x.to(compute)
    if norm_weight is not None and norm_bias is not None:
        z = F.layer_norm(z, z.shape[-1:], norm_weight.to(compute), norm_bias.to(compute), norm_eps)
    difference = _shifted(z, grid, shift, bounds) - z
    weights = list(share.to(compute))
    if correction is not None:
        weights = [weight + amount.to(compute) for weight, amount in zip(weights, correction, strict=True)]
    return tuple((z + difference * weight).to(x.dtype) for weight in weights)


def _shifted(z: Tensor, grid: Sequence[int], shift: int, bounds: Sequence[int]) -> Tensor:
    height, width = grid
    if bounds[3] == 0:
        return z
    maps = z[:, : height * width].unflatten(2, (-1, bounds[-1])).unflatten(1, (height, width))
    left, right, above, below, unmoved = maps.split([end - start for start, end in pairwise((0, *bounds))], dim=-1)
    shifted = [_moved(left, 2, shift), _moved(right, 2, -shift), _moved(above, 1, shift), _moved(below, 1, -shift)]
    shifted.append(unmoved)
    patches = torch.cat(shifted, dim=-1).flatten(1, 2).flatten(2, 3)
    return torch.cat([patches, z[:, height * width :]], dim=1)


def _moved(maps: Tensor, dim: int, steps: int) -> Tensor:
    """Maps (B, H, W, heads, C) moved so many places along rows (1) or columns (2); zeros move in."""
    padding = [0] * (2 * (maps.ndim - dim))
    if abs(steps) == 1:  # padding one side and cropping the other is one operator, but may crop no more than there is
        padding[-2:] = steps, -steps
        return F.pad(maps, padding)
    padding[-2:] = max(steps, 0), max(-steps, 0)
    return F.pad(maps, padding).narrow(dim, max(-steps, 0), maps.shape[dim])


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
