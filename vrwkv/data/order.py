"""The order of the training data and the seed of each sample, as pure functions that need no memory of the past."""

from collections.abc import Callable

import numpy as np

from vrwkv.errors import InputError

_ORDER, _SAMPLE = 0, 1


class EpochOrder:
    """Which sample stands at which position of an epoch: a permutation computed one position at a time.

    The permutation is grain's `index_shuffle`, which takes no memory however large the set. Its seed is drawn
    from (seed, epoch): grain's own `MapDataset.shuffle` uses seed + epoch, with which epoch 1 of seed 0 would repeat
    epoch 0 of seed 1.

    Args:
        length: number of samples, at most 2^32.
        seed: not negative.
        shuffle: False gives the samples in their own order, every epoch.

    Raises:
        InputError: negative seed, or grain is not installed.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True) -> None:
        if seed < 0:
            raise InputError(f"the seed must not be negative, got {seed}")
        self.length = length
        self.seed = seed
        self._index_shuffle = _load_index_shuffle() if shuffle else None
        self._epoch_seed: tuple[int, int] | None = None

    def index(self, epoch: int, position: int) -> int:
        """Data set index of the sample at `position` (0 <= position < length) of `epoch`."""
        if self._index_shuffle is None:
            return position
        if self._epoch_seed is None or self._epoch_seed[0] != epoch:
            sequence = np.random.SeedSequence(self.seed, spawn_key=(_ORDER, epoch))
            self._epoch_seed = (epoch, int(sequence.generate_state(1, np.uint32)[0]))
        return self._index_shuffle(position, max_index=self.length - 1, seed=self._epoch_seed[1], rounds=4)


def sample_seed(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.SeedSequence:
    """The source of all randomness for one sample in one epoch, at one of its repeats there.

    Epoch, index and repeat go into `spawn_key`, not into the entropy, where trailing zeros would not count:
    SeedSequence([seed, 1]) equals SeedSequence([seed, 1, 0]).
    """
    # A spawn key of its own length for repeats keeps what a sample draws where nothing is repeated.
    repeated = (repeat,) if repeat else ()
    return np.random.SeedSequence(seed, spawn_key=(_SAMPLE, epoch, index, *repeated))


def _load_index_shuffle() -> Callable[..., int]:
    try:
        from absl import logging

        # At its import grain warns that jax is missing, which nobody here needs.
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            from grain.experimental import index_shuffle
        finally:
            logging.set_verbosity(verbosity)
    except ImportError:
        raise InputError("shuffled training data needs grain: pip install 'vrwkv[train]'") from None
    return index_shuffle
