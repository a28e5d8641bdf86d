"""Shift-and-mix in Triton: the layer norm, the shift and all mixtures, forward and backward.

Forward, two launches: mean and standard deviation of each token (only with a norm), then the mixtures. An element needs
the statistics of its own token and of one neighbour. To compute them where they are needed, each program would read the
four neighbouring rows once more: 8 bytes per element from a cache that is little faster than an H200's memory, where
the extra launch reads 2, from the same cache if x fits into it. Backward, one launch; the gradient in z is gathered
from the neighbour that saw the element, so that no program adds to another's results and repeats agree to the bit.

Bytes of memory per element in bfloat16, M mixtures (M = 3 in brackets), neighbours' rows coming from the cache:

    forward    2 statistics (norm) + 2 x + 2 M out                      10, 8 without a norm
    backward   2 M gradients + 2 x + 2 gradient in x                    10
    correction 2 M more forward, 4 M more backward                       6, 12
    sums       8 (M + 2) / tokens per program backward, float32          0.6 with 64 tokens
"""

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor

from vrwkv.ops.shift_mix.operator import (
    empty_backward,
    empty_forward,
    in_place_of_arguments,
    save_for_backward,
)
from vrwkv.ops.shift_mix.triton_backward import gradients_kernel
from vrwkv.ops.shift_mix.triton_forward import mixtures_kernel, statistics_kernel
from vrwkv.ops.triton_runtime import triton_operator, wrap_triton

LONGEST_VECTOR = 8  # channels that one thread loads at once, at most
TILE = 2048  # elements of a forward program's tile
# Channels of such a tile, at most: with 128 or 256, what is known of tokens goes through shared memory to the threads
# of their channels, with up to 31 barriers and a third more instructions.
TILE_CHANNELS = 64
BACKWARD_TILE = 1024  # smaller: a tile holds all mixtures, and sums of them


def shift_mix_triton(
    x: Tensor,
    share: Tensor,
    correction: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float,
    grid: Sequence[int],
    shift: int,
    bounds: Sequence[int],
) -> Tensor:
    """Shift-and-mix on a GPU (or in Triton's interpreter); arguments as `shift_mix_naive`."""
    return _shift_mix_triton(x, share, correction, norm_weight, norm_bias, norm_eps, grid, shift, bounds)[0]


def power_of_two_above(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << (number - 1).bit_length()


def channel_block(channels: int) -> int:
    """Channels of a tile that need not hold all: a power of two from 64 to 256 that wastes none, if there is one."""
    dividing = channels & -channels
    return min(dividing, 256) if dividing >= 64 else min(power_of_two_above(channels), 64)


def tokens_per_program(tokens: int) -> int | torch.SymInt:
    """How many tokens a program of the backward pass sums over: at least 512 programs where there are 4096 tokens.

    Up to 64, beyond which the sums that programs write are few compared with what they read.
    """
    return torch.sym_min(64, torch.sym_max(8, tokens // 512))  # one graph for all sizes, when compiled


def _channel_groups(channels: int, bounds: Sequence[int]) -> dict[str, int]:
    align = gcd(LONGEST_VECTOR, channels, *bounds)
    ends = {f"END_{number}": end for number, end in enumerate(bounds[:4], start=1)}
    return {"CHANNELS": channels, "HEAD": bounds[4], **ends, "ALIGN": align}


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
    batch, image_tokens, channels = x.shape
    total = batch * image_tokens
    x, share = x.contiguous(), share.contiguous()
    mixtures = x.new_empty((share.shape[0], batch, image_tokens, channels))
    statistics = x.new_empty((0,), dtype=torch.float32)
    if norm_weight is not None and norm_bias is not None:
        statistics = x.new_empty((3, batch, image_tokens), dtype=torch.float32)
        block_c = power_of_two_above(channels)
        block_t = max(1, TILE // block_c)
        wrap_triton(statistics_kernel)[(-(-total // block_t),)](
            x, statistics, norm_eps, total, CHANNELS=channels, BLOCK_T=block_t, BLOCK_C=block_c, num_warps=4
        )
    block_c = min(power_of_two_above(channels), TILE_CHANNELS)
    block_t = min(TILE // block_c, 32)
    wrap_triton(mixtures_kernel)[(-(-total // block_t) * -(-channels // block_c),)](
        x,
        share,
        _or_any(correction, x),
        _or_any(norm_weight, x),
        _or_any(norm_bias, x),
        statistics,
        mixtures,
        total,
        image_tokens,
        grid[0],
        grid[1],
        shift,
        **_channel_groups(channels, bounds),
        MIXTURES=share.shape[0],
        CORRECTED=correction is not None,
        NORMED=norm_weight is not None,
        BLOCK_T=block_t,
        BLOCK_C=block_c,
        num_warps=4,
    )
    return mixtures, statistics


def _backward(
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
    batch, image_tokens, channels = x.shape
    total, count = batch * image_tokens, share.shape[0]
    grad, x, statistics, share = (tensor.contiguous() for tensor in (grad, x, statistics, share))
    grad_x = x.new_empty((batch, image_tokens, channels))
    grad_correction = [] if correction is None else [correction.new_empty(correction.shape)]
    normed = norm_weight is not None
    block_c = power_of_two_above(channels) if normed else channel_block(channels)
    block_t = min(8, max(1, BACKWARD_TILE // block_c))
    part = tokens_per_program(total)
    programs = -(-total // part)
    partial = x.new_empty((programs, count + 2 * normed, channels), dtype=torch.float32)
    wrap_triton(gradients_kernel)[(programs, -(-channels // block_c))](
        grad,
        x,
        statistics,
        share,
        _or_any(correction, x),
        _or_any(norm_weight, x),
        _or_any(norm_bias, x),
        grad_x,
        grad_correction[0] if grad_correction else grad_x,
        partial,
        total,
        part,
        image_tokens,
        grid[0],
        grid[1],
        shift,
        **_channel_groups(channels, bounds),
        MIXTURES=count,
        CORRECTED=correction is not None,
        NORMED=normed,
        BLOCK_T=block_t,
        BLOCK_C=block_c,
        num_warps=min(16, max(4, block_t * block_c // 256)),
    )
    gradients = [grad_x, partial[:, :count].sum(0).to(share.dtype), *grad_correction]
    if norm_weight is not None and norm_bias is not None:
        for row, parameter in enumerate((norm_weight, norm_bias), start=count):
            gradients.append(partial[:, row].sum(0).to(parameter.dtype))
    return gradients


def _or_any(tensor: Tensor | None, other: Tensor) -> Tensor:
    """`tensor`, contiguous; in place of none an address that the kernel does not read."""
    return other if tensor is None else tensor.contiguous()


def _differentiate(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    x, statistics, *parameters = ctx.saved_tensors
    gradients = _shift_mix_triton_backward(grad, x, statistics, *parameters, ctx.grid, ctx.shift, ctx.bounds)
    return in_place_of_arguments(gradients, x, *parameters)


_shift_mix_triton = triton_operator("vrwkv::shift_mix_triton", empty_forward)(_forward)
_shift_mix_triton_backward = triton_operator("vrwkv::shift_mix_triton_backward", empty_backward)(_backward)
_shift_mix_triton.register_autograd(_differentiate, setup_context=save_for_backward)
