"""Some samples of a labelled source, in a given order."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vrwkv.data.source import LabelledSource


class LabelledSubset:
    """The samples of `source` at `indices`; the classes stay those of the whole set.

    Args:
        source: images with labels.
        indices: (M,) positions in `source`.
    """

    def __init__(self, source: LabelledSource, indices: Sequence[int] | np.ndarray) -> None:
        self._source = source
        self._indices = np.asarray(indices, dtype=np.int64)
        self.labels = np.asarray(source.labels, dtype=np.int64)[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample of the source at `indices[index]`."""
        return self._source[int(self._indices[index])]

    @property
    def class_names(self) -> list[str]:
        """Name of each class of the whole set."""
        return list(self._source.class_names)
