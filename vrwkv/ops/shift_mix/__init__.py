"""Shift-and-mix: what every mixer of a block starts with. The maths is in README.md, the definition in naive.py."""

from typing import Any

from torch import Tensor

from vrwkv.ops.dispatch import Backend, register_backends, select_backend
from vrwkv.ops.shift_mix.arguments import check_mix, check_sequence_shift, check_shift
from vrwkv.ops.shift_mix.cpu import refuse_shift_mix_cpu, shift_mix_cpu
from vrwkv.ops.shift_mix.naive import shift_mix_naive
from vrwkv.ops.shift_mix.operator import shift_mix_torch
from vrwkv.ops.triton_runtime import INTERPRETED, refuse_triton

__all__ = ["bi_shift_mix", "shift_mix"]


def _triton(x: Tensor, *others: Any) -> Tensor:
    from vrwkv.ops.shift_mix.triton import shift_mix_triton

    return shift_mix_triton(x, *others)


register_backends(
    "shift_mix",
    Backend("triton", _triton, refuse_triton, automatic=not INTERPRETED),
    Backend("cpu", shift_mix_cpu, refuse_shift_mix_cpu),
    Backend("torch", shift_mix_torch),
    Backend("naive", shift_mix_naive, automatic=False),
)


def shift_mix(
    x: Tensor,
    share: Tensor,
    grid: tuple[int, int],
    *,
    correction: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm_eps: float = 1e-5,
    num_heads: int = 1,
    shift: int = 1,
    gamma: float = 0.25,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """M mixtures of every token with its neighbours on the grid, in one pass; optionally after a layer norm.

    z = layer_norm(x) where norm_weight and norm_bias are given, else x;
    out[m] = z + (q_shift(z) - z) · (share[m] + correction[m]).
    The mixes of Vision-RWKV (arXiv 2403.02308, Eq. 1 and 2; its μ weighs the token itself, so share = 1 - μ), and with
    a correction those of VRWKV6 (released code).

    Args:
        x: (B, T, C) tokens in raster order, T ≥ height · width; those after the grid (class tokens) are not shifted.
        share: (M, C) share of the shifted token in each mixture, in float32 or the dtype of `x`.
        grid: (height, width) in tokens.
        correction: (M, B, T, C) added to the share, dtype of `x`.
        norm_weight, norm_bias: (C,) in float32 or the dtype of `x`, both or neither.
        norm_eps: epsilon of the norm.
        num_heads, shift, gamma: as in `q_shift`.
        backend: "triton", "cpu", "torch" or "naive"; by default VRWKV_BACKEND, else the best that can run.

    Returns:
        M tensors (B, T, C) of the dtype of `x`. The arithmetic is float32, or float64 for float64.

    Raises:
        ValueError: a wrong shape, dtype, device or number (the message names the argument), or a backend that cannot
            run.
    """
    check_mix(x, share, correction, norm_weight, norm_bias, norm_eps)
    check_shift(x, grid, num_heads, shift, gamma)
    head_dim = x.shape[2] // num_heads
    # Without a distance nobody moves: all channels belong to the group that stays.
    bounds = [int(head_dim * gamma * group) if shift else 0 for group in range(1, 5)]
    chosen = select_backend("shift_mix", backend, x)
    return _separate(
        chosen.run(x, share, correction, norm_weight, norm_bias, norm_eps, list(grid), shift, [*bounds, head_dim])
    )


def bi_shift_mix(
    x: Tensor,
    share: Tensor,
    *,
    correction: Tensor | None = None,
    num_heads: int = 1,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """M mixtures of every token with the one before (half of each head) and the one after it (the other half).

    out[m] = x + (bi_shift(x) - x) · (share[m] + correction[m]): RWKV-CLIP's text tower (released code).

    Args:
        x: (B, T, C).
        share: (M, C) share of the shifted token in each mixture, in float32 or the dtype of `x`.
        correction: (M, B, T, C) added to the share, dtype of `x`.
        num_heads: as in `bi_shift`.
        backend: as in `shift_mix`, whose backends these are.

    Returns:
        M tensors (B, T, C) of the dtype of `x`. The arithmetic is float32, or float64 for float64.

    Raises:
        ValueError: a wrong shape, dtype, device or number (the message names the argument), or a backend that cannot
            run.
    """
    check_mix(x, share, correction)
    check_sequence_shift(x, num_heads)
    head_dim = x.shape[2] // num_heads
    # The sequence is a grid of one row, whose halves of a head look left and right.
    bounds = [head_dim // 2, head_dim, head_dim, head_dim, head_dim]
    chosen = select_backend("shift_mix", backend, x)
    return _separate(chosen.run(x, share, correction, None, None, 1e-5, [1, x.shape[1]], 1, bounds))


def _separate(mixtures: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Backends write all mixtures into one tensor; exported ones are separate from the start."""
    return mixtures.unbind() if isinstance(mixtures, Tensor) else mixtures
