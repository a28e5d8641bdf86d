"""Shift-and-mix in plain torch, forward and backward, written for few passes over memory."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

COLUMNS, ROWS = 2, 1
# Axis of (B, height, width, heads, head size) and direction in which each group of channels looks.
LOOKS = ((COLUMNS, -1), (COLUMNS, 1), (ROWS, -1), (ROWS, 1))


def compute_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.promote_types(x.dtype, torch.float32)


def neighbour_difference(
    z: Tensor, grid: Sequence[int], shift: int, bounds: Sequence[int], *, adjoint: bool = False
) -> Tensor:
    """What the neighbour of each element has more than the element itself; zero where nothing moves.

    Args:
        z: (B, T, C), contiguous.
        grid, shift, bounds: as in `shift_mix_naive`.
        adjoint: apply the transposed map: it looks the other way.

    Returns:
        (B, T, C), dtype of `z`.
    """
    height, width = grid
    difference = z.neg()
    difference[:, height * width :].zero_()
    ours, theirs = (
        tensor[:, : height * width].unflatten(1, (height, width)).unflatten(3, (-1, bounds[-1]))
        for tensor in (difference, z)
    )
    ours[..., bounds[3] :].zero_()
    for (axis, look), (start, end) in zip(LOOKS, pairwise((0, *bounds[:4])), strict=True):
        overlap = ours.shape[axis] - shift
        if overlap <= 0 or start == end:
            continue
        first, last = (shift, 0) if (look < 0) != adjoint else (0, shift)
        target = ours[..., start:end].narrow(axis, first, overlap)
        target += theirs[..., start:end].narrow(axis, last, overlap)
    return difference


def shift_mix_forward(
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
    """The mixtures (M, B, T, C) in x's dtype and, for the backward pass, the norm's statistics.

    Statistics are (3, B, T) as `_norm_statistics` returns them, in the dtype of the arithmetic; (0,) without a norm.
    """
    compute = compute_dtype(x)
    tokens = x.to(compute).contiguous()
    if norm_weight is None or norm_bias is None:
        z, statistics = tokens, tokens.new_empty(0)
    else:
        statistics = _norm_statistics(tokens, norm_eps)
        z = torch.addcmul(norm_bias.to(compute), _standardised(tokens, statistics), norm_weight.to(compute))
    difference = neighbour_difference(z, grid, shift, bounds)
    mixtures = x.new_empty((share.shape[0], *x.shape))
    for index, mixture in enumerate(mixtures):
        weight = _weight(share, correction, index, compute)
        if mixture.dtype == compute:
            torch.addcmul(z, difference, weight, out=mixture)
        else:
            mixture.copy_(torch.addcmul(z, difference, weight))
    return mixtures, statistics


def shift_mix_backward(
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
    """Gradients in x, share and, where given, correction, norm_weight and norm_bias, each in its argument's dtype.

    The gradient in z is Σ_m g_m plus what the neighbours that looked here send back, less what the token gave up.
    """
    compute = compute_dtype(x)
    tokens = x.to(compute).contiguous()
    standardised = None if norm_weight is None else _standardised(tokens, statistics)
    if standardised is None or norm_weight is None or norm_bias is None:
        z = tokens
    else:
        z = torch.addcmul(norm_bias.to(compute), standardised, norm_weight.to(compute))
    difference = neighbour_difference(z, grid, shift, bounds)
    grad_share = torch.empty(share.shape, dtype=compute, device=x.device)
    grad_correction = [] if correction is None else [correction.new_empty(correction.shape)]
    grad_z, moved = torch.zeros_like(tokens), torch.zeros_like(tokens)
    for index in range(share.shape[0]):
        gradient = grad[index].to(compute)
        grad_z += gradient
        moved.addcmul_(gradient, _weight(share, correction, index, compute))
        in_weight = gradient * difference
        grad_share[index] = in_weight.sum((0, 1))
        for gradients in grad_correction:
            gradients[index] = in_weight
    grad_z += neighbour_difference(moved, grid, shift, bounds, adjoint=True)
    if standardised is None or norm_weight is None or norm_bias is None:
        return [grad_z.to(x.dtype), grad_share.to(share.dtype), *grad_correction]
    return [
        _through_norm(grad_z * norm_weight.to(compute), standardised, statistics[2]).to(x.dtype),
        grad_share.to(share.dtype),
        *grad_correction,
        (grad_z * standardised).sum((0, 1)).to(norm_weight.dtype),
        grad_z.sum((0, 1)).to(norm_bias.dtype),
    ]


def _weight(share: Tensor, correction: Tensor | None, index: int, compute: torch.dtype) -> Tensor:
    weight = share[index].to(compute)
    return weight if correction is None else weight + correction[index].to(compute)


def _norm_statistics(tokens: Tensor, eps: float) -> Tensor:
    """(3, B, T): mean over the channels, what rounding left of it, and 1 / standard deviation.

    The rest of the mean counts where channels differ little: 1 + 1e-5 · noise has a mean that is known to 1e-8 only.
    """
    mean = tokens.mean(2)
    deviation = tokens - mean[..., None]
    rest = deviation.mean(2)
    variance = deviation.sub_(rest[..., None]).square_().mean(2)
    return torch.stack([mean, rest, torch.rsqrt(variance + eps)])


def _standardised(tokens: Tensor, statistics: Tensor) -> Tensor:
    mean, rest, scale = statistics[..., None]
    return (tokens - mean).sub_(rest).mul_(scale)


def _through_norm(grad: Tensor, standardised: Tensor, scale: Tensor) -> Tensor:
    """Gradient in the norm's input, for the gradient in its standardised output."""
    along = (grad * standardised).mean(2, keepdim=True)
    return (grad - grad.mean(2, keepdim=True)).addcmul_(standardised, along, value=-1).mul_(scale[..., None])
