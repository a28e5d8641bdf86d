"""Shift-and-mix for whole blocks in inference: what comes before it and after it takes no calls of its own."""

import struct
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from vrwkv.ops.cpu_runtime.kernel import STORAGE, Prepared, run_calls
from vrwkv.ops.shift_mix import cpu_forward as loops
from vrwkv.ops.shift_mix.cpu_channels import channel_tables
from vrwkv.ops.shift_mix.settings import Norm, Shift

FLOAT32_BYTES = 4
_storage = STORAGE[torch.float32]


@lru_cache(maxsize=64)
def _bits(eps: float) -> int:
    return int.from_bytes(struct.pack("<f", eps), "little")


@lru_cache(maxsize=64)
def _tables(channels: int, gamma: float, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    head_dim = channels // num_heads
    return channel_tables(channels, (*(int(head_dim * gamma * group) for group in range(1, 5)), head_dim))


def mix_into(
    mixtures: Tensor,
    x: Tensor,
    branch: Tensor | None,
    own_shares: Sequence[Tensor],
    norm: Norm,
    image_tokens: int,
    grid: tuple[int, int],
    shift: Shift,
) -> None:
    """Norm, shift and mix, as `vrwkv.ops.shift_mix`; all tensors are contiguous float32.

    Args:
        mixtures: (M, N, C), takes the result; C is a multiple of 16.
        x: (N, C) tokens of all images.
        branch: (N, C); if given, x is added to it first, and the sum is mixed.
        own_shares: M times (C,), share of the token itself in each mixture.
        norm: applied first.
        image_tokens: tokens of an image.
        grid, shift: as in `vrwkv.ops.shift_mix`.
    """
    count, total, channels = mixtures.shape
    scratch = torch.empty(3 * total + count * channels, dtype=torch.float32, device="cpu")
    statistics = scratch.data_ptr()
    share = statistics + 3 * total * FLOAT32_BYTES
    mixed = x if branch is None else branch
    run_calls(
        loops.write_shares.prepare(count, share, channels, *own_shares),
        _norm_statistics(x, branch, statistics, norm, mixtures, shift),
        _write_mixtures(mixtures, mixed, share, None, statistics, norm, image_tokens, grid, shift),
        elements=mixtures.numel(),
    )


def mix_first_into(
    mixture: Tensor, x: Tensor, share: Tensor, norm: Norm, image_tokens: int, grid: tuple[int, int], shift: Shift
) -> Tensor:
    """One mixture (1, N, C), from the share (C,) of the shifted token; returns what `mix_corrected` needs."""
    statistics = torch.empty(3 * mixture.shape[1], dtype=torch.float32, device="cpu")
    address = statistics.data_ptr()
    run_calls(
        _norm_statistics(x, None, address, norm, mixture, shift),
        _write_mixtures(mixture, x, share, None, address, norm, image_tokens, grid, shift),
        elements=mixture.numel(),
    )
    return statistics


def mix_corrected(
    mixtures: Tensor,
    x: Tensor,
    share: Tensor,
    statistics: Tensor,
    norm: Norm,
    image_tokens: int,
    grid: tuple[int, int],
    shift: Shift,
) -> None:
    """Further mixtures of the same tokens, with shares (M, C) of the shifted token and a correction for each number.

    `mixtures` (M, N, C) holds the corrections, and takes the result: each number is read before its place is written.
    """
    call = _write_mixtures(mixtures, x, share, mixtures, statistics.data_ptr(), norm, image_tokens, grid, shift)
    run_calls(call, elements=mixtures.numel())


def _norm_statistics(
    x: Tensor, branch: Tensor | None, statistics: int, norm: Norm, mixtures: Tensor, shift: Shift
) -> Prepared:
    _, total, channels = mixtures.shape
    fresh = _tables(channels, shift.gamma, shift.num_heads)[2]
    return loops.norm_statistics.prepare(
        _tasks(total), x, statistics, fresh, total, channels, _bits(norm.eps), _storage, branch
    )


def _write_mixtures(
    mixtures: Tensor,
    x: Tensor,
    share: Tensor | int,
    correction: Tensor | None,
    statistics: int,
    norm: Norm,
    image_tokens: int,
    grid: tuple[int, int],
    shift: Shift,
) -> Prepared:
    count, total, channels = mixtures.shape
    runs, masks, _ = _tables(channels, shift.gamma, shift.num_heads)
    return loops.write_mixtures.prepare(
        _tasks(total), x, share, correction, norm.weight, norm.bias, statistics, mixtures, runs, masks, total,
        image_tokens, channels, count, grid[0], grid[1], shift.distance, len(runs), _storage,
    )  # fmt: skip


def _tasks(tokens: int) -> int:
    return -(-tokens // loops.TOKENS_PER_TASK)
