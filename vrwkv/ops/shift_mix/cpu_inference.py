"""Shift-and-mix for whole blocks in inference: what comes before it and after it takes no calls of its own."""

import struct
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from vrwkv.ops.cpu_runtime.kernel import STORAGE, run_calls
from vrwkv.ops.shift_mix import cpu_forward as loops
from vrwkv.ops.shift_mix.cpu_channels import channel_tables

FLOAT32_BYTES = 4
_storage = STORAGE[torch.float32]


@lru_cache(maxsize=64)
def _bits(eps: float) -> int:
    return int.from_bytes(struct.pack("<f", eps), "little")


@lru_cache(maxsize=64)
def _tables(channels: int, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    return channel_tables(channels, (*(int(channels * gamma * group) for group in range(1, 5)), channels))


def mix_into(
    mixtures: Tensor,
    x: Tensor,
    branch: Tensor | None,
    own_shares: Sequence[Tensor],
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    image_tokens: int,
    grid: tuple[int, int],
    shift: int,
    gamma: float,
) -> None:
    """Norm, shift and mix, as `vrwkv.ops.shift_mix`; all tensors are contiguous float32.

    Args:
        mixtures: (M, N, C), takes the result; C is a multiple of 16.
        x: (N, C) tokens of all images.
        branch: (N, C); if given, x is added to it first, and the sum is mixed.
        own_shares: M times (C,), share of the token itself in each mixture.
        norm_weight, norm_bias, norm_eps: of the layer norm.
        image_tokens: tokens of an image.
        grid, shift, gamma: as in `vrwkv.ops.shift_mix`, with one head.
    """
    count, total, channels = mixtures.shape
    runs, masks, fresh = _tables(channels, gamma)
    tasks = -(-total // loops.TOKENS_PER_TASK)
    scratch = torch.empty(3 * total + count * channels, dtype=torch.float32, device="cpu")
    statistics = scratch.data_ptr()
    share = statistics + 3 * total * FLOAT32_BYTES
    run_calls(
        loops.write_shares.prepare(count, share, channels, *own_shares),
        loops.norm_statistics.prepare(
            tasks, x, statistics, fresh, total, channels, _bits(norm_eps), _storage, branch
        ),
        loops.write_mixtures.prepare(
            tasks, x if branch is None else branch, share, None, norm_weight, norm_bias, statistics, mixtures,
            runs, masks, total, image_tokens, channels, count, grid[0], grid[1], shift, len(runs), _storage,
        ),
        elements=mixtures.numel(),
    )  # fmt: skip
