"""What image-text training and retrieval need of a source beyond its samples."""

from typing import Any, Protocol

import numpy as np

from vrwkv.data.source import Source

_SHUFFLE_SEED = 0


class CaptionedImages(Source, Protocol):
    """A source of image-text pairs whose texts can be read without decoding an image."""

    def captions(self, index: int) -> list[str]:
        """The captions of one sample, at least one; raises CorruptSample where there is none."""
        ...

    def image_key(self, index: int) -> str:
        """What identifies the image: samples with equal keys show the same one."""
        ...


class ShuffledCaptions:
    """Control experiment: every sample gets the captions of another, so that there is nothing to learn.

    The reassignment is one fixed random cycle through all samples: the set of captions stays the same and no sample
    keeps its own. Labels and images stay where they are.

    Args:
        source: the pairs.
        seed: of the cycle.
    """

    def __init__(self, source: CaptionedImages, seed: int = _SHUFFLE_SEED) -> None:
        self._source = source
        cycle = np.random.default_rng(seed).permutation(len(source))
        self._donor = np.empty(len(source), dtype=np.int64)
        self._donor[cycle] = np.roll(cycle, -1)

    def __getattr__(self, name: str) -> Any:
        # Labels and class names of the source show through. Unpickling asks for attributes before there is a source.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The source's sample with the captions of another."""
        return {**self._source[index], "captions": self.captions(index)}

    def captions(self, index: int) -> list[str]:
        """The captions of the sample that `index` was assigned."""
        return self._source.captions(int(self._donor[index]))

    def image_key(self, index: int) -> str:
        """The key of the sample's own image."""
        return self._source.image_key(index)
