"""Many strings in two arrays, so that worker processes share them instead of slowly copying millions of objects."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np


class PackedStrings(Sequence[str]):
    """An immutable sequence of strings stored as UTF-8 bytes end to end.

    A forked worker that merely reads a list of Python strings copies it page by page, because reading changes the
    reference counts. Two arrays have no such counts.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        data = bytearray()
        ends = [0]
        for string in strings:
            # File names may hold bytes that are not UTF-8; surrogateescape carries them through.
            data += string.encode("utf-8", "surrogateescape")
            ends.append(len(data))
        self.data = np.frombuffer(bytes(data), dtype=np.uint8)
        self.bounds = np.array(ends, dtype=np.int64)

    @classmethod
    def from_arrays(cls, data: np.ndarray, bounds: np.ndarray) -> "PackedStrings":
        """Strings with bytes `data` (total,) uint8, the i-th from bounds[i] to bounds[i + 1]; bounds (N + 1,) int64."""
        packed = cls(())
        packed.data, packed.bounds = data, bounds
        return packed

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """The string at `index`, or a list of strings for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} out of range for {len(self)} strings")
        index %= len(self)
        return self.data[self.bounds[index] : self.bounds[index + 1]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))
