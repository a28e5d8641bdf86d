"""Memory for large results: inside `reusing_memory()`, that of earlier ones which nobody holds any more.

glibc maps memory from 32 MiB on anew at each call, so that every result of an op on many tokens starts with the system
clearing its pages (docs/log.md has what that costs).
"""

import math
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

LARGEST = 32 << 20  # bytes that malloc still takes from memory it keeps (M_MMAP_THRESHOLD at its most)


class _Piece:
    """Memory that one tensor at a time may have; numpy's array tells when that tensor and its views are gone."""

    def __init__(self, size: int) -> None:
        self.size = size
        # Torch's memory: numpy asks for huge pages, for which the system may have to move others away.
        self._memory = torch.empty(size, dtype=torch.uint8, device="cpu").numpy()
        self._holder: weakref.ref[np.ndarray] | None = None

    def is_free(self) -> bool:
        return self._holder is None or self._holder() is None

    def hand_out(self, size: int) -> Tensor:
        view = self._memory[:size]
        self._holder = weakref.ref(view)
        return torch.from_numpy(view)


class _Pieces(threading.local):
    kept: list[_Piece] | None = None


_pieces = _Pieces()


@contextmanager
def reusing_memory() -> Iterator[None]:
    """Let `empty_result` on this thread hand out memory again; at the end, what is not held by a tensor is freed."""
    outer, _pieces.kept = _pieces.kept, []
    try:
        yield
    finally:
        _pieces.kept = outer


def empty_result(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """torch.empty(shape, dtype=dtype) on the CPU; from used memory where it is large, and there is some to be had."""
    size = math.prod(shape) * dtype.itemsize
    if _pieces.kept is None or size <= LARGEST:
        return torch.empty(shape, dtype=dtype, device="cpu")
    fitting = [piece for piece in _pieces.kept if piece.size >= size and piece.is_free()]
    if not fitting:
        fitting = [_Piece(size)]
        _pieces.kept += fitting
    return min(fitting, key=lambda piece: piece.size).hand_out(size).view(dtype).view(shape)
