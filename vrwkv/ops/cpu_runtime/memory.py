"""Memory for results: inside `reusing_memory()`, that of earlier ones which nobody holds any more.

malloc gives freed memory back to the system, all of it from 32 MiB on and the end of its heap whenever enough lies
there, and the system clears the pages again when they are next written to. That takes longer than to compute what is
written (docs/log.md has what it costs).
"""

import math
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

SMALLEST = 64 << 10  # bytes; below, fewer pages are cleared than it takes time to look for memory
KEPT = 64 << 20  # bytes kept from one pass to the next, as much as malloc itself may keep (M_TRIM_THRESHOLD's maximum)
MOST_UNUSED = 4  # memory is handed out for results down to so small a part of it, since they may be held for long


_NUMPY_TYPES = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.float16: np.float16,
    torch.bfloat16: np.int16,
}


class _Piece:
    """Memory that one tensor at a time may have; numpy's array tells when that tensor and its views are gone."""

    def __init__(self, size: int) -> None:
        self.size = size
        # Torch's memory: numpy asks for huge pages, for which the system may have to move others away.
        self._memory = torch.empty(size, dtype=torch.uint8, device="cpu").numpy()
        self._holder: weakref.ref[np.ndarray] | None = None

    def is_free(self) -> bool:
        return self._holder is None or self._holder() is None

    def hand_out(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        # Of numpy's arrays, because views of them cost a fraction of what torch's do.
        view = np.ndarray(shape, _NUMPY_TYPES[dtype], self._memory)
        self._holder = weakref.ref(view)
        tensor = torch.from_numpy(view)
        return tensor if tensor.dtype == dtype else tensor.view(dtype)


class _Pieces(threading.local):
    """What a thread keeps, the last one used at the end, and how many scopes it is in."""

    def __init__(self) -> None:
        self.kept: list[_Piece] = []
        self.scopes = 0


_pieces = _Pieces()


@contextmanager
def reusing_memory() -> Iterator[None]:
    """Let `empty_result` on this thread hand out memory again, now and in later scopes.

    At the end, what a tensor holds becomes that tensor's own, and of the rest up to KEPT bytes are kept.
    """
    _pieces.scopes += 1
    try:
        yield
    finally:
        _pieces.scopes -= 1
        if _pieces.scopes == 0:
            _forget()


def _forget() -> None:
    kept, size = [], 0
    for piece in reversed(_pieces.kept):
        if piece.is_free() and size + piece.size <= KEPT:
            kept.append(piece)
            size += piece.size
    _pieces.kept = kept[::-1]


def empty_result(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """torch.empty(shape, dtype=dtype) on the CPU; from used memory in a scope, if there is some to be had."""
    size = math.prod(shape) * dtype.itemsize
    if _pieces.scopes == 0 or size < SMALLEST:
        return torch.empty(shape, dtype=dtype, device="cpu")
    kept = _pieces.kept
    found, best = -1, MOST_UNUSED * size + 1
    for index, piece in enumerate(kept):
        if size <= piece.size < best and piece.is_free():
            found, best = index, piece.size
    piece = kept.pop(found) if found >= 0 else _Piece(size)
    kept.append(piece)
    return piece.hand_out(shape, dtype)
