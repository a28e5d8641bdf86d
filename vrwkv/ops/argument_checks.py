"""Checks on op arguments: each failure is a ValueError that names the argument and says what it should have been."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_floating(**tensors: Tensor) -> None:
    """Every argument must be a floating-point tensor, all on one device."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a tensor, not {type(tensor).__name__}")
        if tensor.dtype not in FLOATING:
            raise ValueError(f"{name} must be float64, float32, bfloat16 or float16, not {tensor.dtype}")
        if tensor.device != first.device:
            raise ValueError(
                f"{name} is on {tensor.device} but {first_name} is on {first.device}; move them to one device"
            )


def check_shape(name: str, tensor: Tensor, expected: Sequence[int | None], meaning: str) -> None:
    """`tensor` must have the `expected` sizes; None stands for any size of at least one."""
    shape = tensor.shape
    if shape == expected and 0 not in shape:  # the usual case, at a fraction of the time
        return
    fits = len(shape) == len(expected) and all(
        size >= 1 if want is None else size == want for size, want in zip(shape, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join("≥1" if want is None else str(want) for want in expected)
        raise ValueError(f"{name} must have shape {meaning} = ({wanted}), not {tuple(tensor.shape)}")


def check_same_dtype(**tensors: Tensor) -> None:
    """All arguments must have one dtype."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.dtype != first.dtype:
            raise ValueError(f"{name} is {tensor.dtype} but {first_name} is {first.dtype}; cast them to one dtype")


def check_cu_seqlens(cu_seqlens: Tensor | None, batch: int, tokens: int, device: torch.device) -> None:
    """`cu_seqlens` must be (N+1,) int32 or int64 boundaries from 0 to `tokens`, increasing, over a batch of one."""
    if cu_seqlens is None:
        return
    if not isinstance(cu_seqlens, Tensor):
        raise ValueError(f"cu_seqlens must be an int32 tensor of N+1 boundaries, not {type(cu_seqlens).__name__}")
    if cu_seqlens.ndim != 1 or cu_seqlens.numel() < 2 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"cu_seqlens must be a 1-D int32 tensor of N+1 boundaries, not {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}"
        )
    if cu_seqlens.device != device:
        raise ValueError(
            f"cu_seqlens is on {cu_seqlens.device} but the tokens are on {device}; move them to one device"
        )
    if batch != 1:
        raise ValueError(f"cu_seqlens packs images end to end in a batch of one, but the batch is {batch}")
    if torch.compiler.is_compiling() or cu_seqlens.is_meta:
        return
    boundaries = cu_seqlens.tolist()
    if boundaries[0] != 0 or boundaries[-1] != tokens or any(a >= b for a, b in pairwise(boundaries)):
        raise ValueError(f"cu_seqlens must increase from 0 to the number of tokens, {tokens}; it is {boundaries}")
