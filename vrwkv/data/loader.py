"""Batches whose order and randomness are the same for any number of workers and processes and any starting step."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from vrwkv.data.order import EpochOrder, sample_seed
from vrwkv.data.randomness import seeded_generators
from vrwkv.data.skipped import Skipped, Tolerance
from vrwkv.data.source import CorruptSample, Source
from vrwkv.data.worker_processes import signals_held_back, start_worker
from vrwkv.errors import InputError

Transform = Callable[[dict[str, Any], np.random.Generator], dict[str, Tensor | int]]
Batch = dict[str, Tensor]
Collate = Callable[[list[Any]], dict[str, Any]]


class TrainLoader:
    """Shuffled batches of constant size, addressed by the global step.

    Step s belongs to epoch s // steps_per_epoch. Which samples it holds is a pure function of (seed, epoch, step);
    the randomness of a sample is a pure function of (seed, epoch, data set index, repeat). Neither depends on the
    number of workers, on how many processes share a batch, or on where the run was resumed; so resuming needs no state.

    With repeated augmentation (`repeats` above 1; arXiv 1901.09335), an epoch keeps its number of steps: it visits the
    first 1 / repeats of its order, each sample `repeats` times in a row, every time with randomness of its own. The
    zeroth repeat of a sample has the randomness that the sample has without repeats.

    A corrupt sample is replaced by the next index that can be read (with the randomness of that index) and recorded in
    `skipped`; too many end the run, see `vrwkv.data.skipped.Tolerance`. With several ranks, each counts and judges
    what it met itself.

    Each sample passes through `transform(sample, generator)`, with "index" (its data set index) added to the sample.
    During the call, the global generators of Python, numpy and torch hold the sample's own randomness.

    Args:
        source: the samples.
        transform: makes the tensors of one sample; results become a batch by `collate`.
        batch_size: samples of a step over all processes.
        seed: not negative.
        num_workers: decoding processes; 0 decodes in this one.
        rank: this process; it receives the slice [rank * B / W, (rank + 1) * B / W) of each batch.
        world_size: number of processes W; must divide batch_size.
        max_corrupt_fraction: share of corrupt samples to put up with.
        shuffle: False keeps the order of the source.
        repeats: how often an epoch shows a sample.
        pin_memory: put batches into page-locked memory, for faster copies to a GPU.
        collate: makes a batch of what `transform` returned for each sample; by default tensors are stacked.

    Raises:
        InputError: sizes that do not fit together; while iterating, too many corrupt samples.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        *,
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        max_corrupt_fraction: float = 0.01,
        shuffle: bool = True,
        repeats: int = 1,
        pin_memory: bool = False,
        collate: Collate = default_collate,
    ) -> None:
        _check_counts(batch_size, num_workers)
        if repeats < 1:
            raise InputError(f"data.repeats must be at least 1, got {repeats}")
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} does not exist in a world of {world_size}")
        if batch_size % world_size:
            raise InputError(
                f"data.batch_size={batch_size} is the size over all processes and must be a multiple of their number "
                f"{world_size}, e.g. {max(1, batch_size // world_size) * world_size}"
            )
        if len(source) < batch_size:
            raise InputError(
                f"the training set has {len(source)} samples, fewer than one batch of data.batch_size={batch_size}: "
                "add data or make the batch smaller"
            )
        self.batch_size = batch_size
        self.steps_per_epoch = len(source) // batch_size
        self.skipped = Skipped()
        self._order = EpochOrder(len(source), seed, shuffle)
        self._tolerance = Tolerance(max_corrupt_fraction, len(source))
        self._dataset = _Samples(source, transform, seed, self._tolerance, substitute=True)
        self._local = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._collate = collate
        self._repeats = repeats
        self._random_order = shuffle
        self._drawn = 0
        self._drawn_corrupt = 0

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """This process's slices of the batches of steps start_step, …, stop_step - 1, counted over all epochs."""
        sampler = _Steps(
            start_step, stop_step, self.steps_per_epoch, self.batch_size, self._local, self._order, self._repeats
        )
        for fetched in _fetch(self._dataset, sampler, self._num_workers, self._pin_memory, self._collate):
            if self._random_order:
                self._drawn += fetched.drawn
                self._drawn_corrupt += fetched.drawn_corrupt
            _account(fetched, self.skipped, self._tolerance, self._drawn, self._drawn_corrupt)
            if fetched.batch is not None:
                yield fetched.batch


class EvaluationLoader:
    """Every sample of a source once, in order.

    Corrupt samples are left out, so batches can be smaller than batch_size; "index" in the sample tells which ones
    arrived. `skipped` is the account of the latest pass. The tolerance is the first rule of `Tolerance`.

    Args:
        source: the samples.
        transform: as for `TrainLoader`; its randomness is a pure function of the index.
        batch_size: samples of a batch; the last may be smaller.
        num_workers: decoding processes; 0 decodes in this one.
        max_corrupt_fraction: share of corrupt samples to put up with.
        pin_memory: put batches into page-locked memory, for faster copies to a GPU.
        collate: as for `TrainLoader`.

    Raises:
        InputError: impossible sizes; while iterating, too many corrupt samples.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        *,
        batch_size: int,
        num_workers: int = 0,
        max_corrupt_fraction: float = 0.01,
        pin_memory: bool = False,
        collate: Collate = default_collate,
    ) -> None:
        _check_counts(batch_size, num_workers)
        self.batch_size = batch_size
        self.skipped = Skipped()
        self._tolerance = Tolerance(max_corrupt_fraction, len(source))
        self._dataset = _Samples(source, transform, 0, self._tolerance, substitute=False)
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._collate = collate

    def __len__(self) -> int:
        """Number of batches; one fewer arrives for each batch that holds nothing but corrupt samples."""
        return -(-len(self._dataset.source) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """A pass over the source; starts a new account of what was skipped."""
        self.skipped = skipped = Skipped()
        order = EpochOrder(len(self._dataset.source), 0, shuffle=False)
        sampler = _Steps(0, len(self), len(self), self.batch_size, range(self.batch_size), order)
        for fetched in _fetch(self._dataset, sampler, self._num_workers, self._pin_memory, self._collate):
            _account(fetched, skipped, self._tolerance)
            if fetched.batch is not None:
                yield fetched.batch


def _check_counts(batch_size: int, num_workers: int) -> None:
    if batch_size < 1:
        raise InputError(f"data.batch_size must be at least 1, got {batch_size}")
    if num_workers < 0:
        raise InputError(f"data.num_workers must not be negative, got {num_workers}")


@dataclass(frozen=True)
class _Steps:
    """Batch sampler: for each step the (epoch, index, repeat) of this process, computed as they are asked for."""

    start: int
    stop: int
    steps_per_epoch: int
    batch_size: int
    local: range
    order: EpochOrder
    repeats: int = 1

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for step in range(self.start, self.stop):
            epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
            first = step_in_epoch * self.batch_size
            positions = (first + offset for offset in self.local)
            yield [
                (epoch, self.order.index(epoch, p // self.repeats), p % self.repeats)
                for p in positions
                if p < self.order.length
            ]


@dataclass
class _Fetched:
    """What a worker sends for one sample, or for one batch: tensors, corrupt samples met, or the user's mistake."""

    batch: Batch | None
    corrupt: list[tuple[int, str, str]]
    drawn: int
    drawn_corrupt: int
    mistake: str | None = None

    def pin_memory(self) -> "_Fetched":
        """Called by torch's DataLoader."""
        if self.batch is not None:
            self.batch = {key: _pinned(value) for key, value in self.batch.items()}
        return self


@dataclass(frozen=True)
class _Samples:
    """Map-style data set over (epoch, index, repeat); decodes and transforms, in whichever process."""

    source: Source
    transform: Transform
    seed: int
    tolerance: Tolerance
    substitute: bool

    def __getitem__(self, address: tuple[int, int, int]) -> _Fetched:
        epoch, index, repeat = address
        corrupt: list[tuple[int, str, str]] = []
        sample: dict[str, Any] | None = None
        # Once the corrupt ones met here are too many by themselves, the main process will end the run: look no further.
        attempts = len(self.source) if self.substitute else 1
        try:
            for candidate in ((index + offset) % len(self.source) for offset in range(attempts)):
                try:
                    sample = self._transformed(epoch, candidate, repeat)
                    break
                except CorruptSample as error:
                    corrupt.append((candidate, error.name, error.reason))
                    if self.tolerance.exceeded_by(len(corrupt)):
                        break
            else:
                if self.substitute:
                    return _Fetched(None, corrupt, 1, 1, f"none of the {len(self.source)} samples can be read")
        except InputError as error:
            # Raised in a worker, torch would wrap it in that process's traceback.
            return _Fetched(None, corrupt, 1, bool(corrupt), str(error))
        return _Fetched(sample, corrupt, 1, bool(corrupt))

    def _transformed(self, epoch: int, index: int, repeat: int) -> dict[str, Any]:
        sample = {**self.source[index], "index": index}
        with seeded_generators(sample_seed(self.seed, epoch, index, repeat)) as generator:
            return self.transform(sample, generator)


def _pinned(value: Any) -> Any:
    return [item.pin_memory() for item in value] if isinstance(value, list) else value.pin_memory()


def _collate(collate: Collate, samples: list[_Fetched]) -> _Fetched:
    present = [sample.batch for sample in samples if sample.batch is not None]
    return _Fetched(
        batch=collate(present) if present else None,
        corrupt=[record for sample in samples for record in sample.corrupt],
        drawn=sum(sample.drawn for sample in samples),
        drawn_corrupt=sum(sample.drawn_corrupt for sample in samples),
        mistake=next((sample.mistake for sample in samples if sample.mistake is not None), None),
    )


def _fetch(
    dataset: _Samples, sampler: _Steps, num_workers: int, pin_memory: bool, collate: Collate
) -> Iterator[_Fetched]:
    loader: DataLoader[_Fetched] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=sampler,  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=partial(_collate, collate),
        pin_memory=pin_memory,
        worker_init_fn=partial(start_worker, os.getpid()),
        # Without a generator of its own, DataLoader draws a number from torch's global one.
        generator=torch.Generator().manual_seed(0),
    )
    with signals_held_back():
        return iter(loader)


def _account(fetched: _Fetched, skipped: Skipped, tolerance: Tolerance, drawn: int = 0, drawn_corrupt: int = 0) -> None:
    for record in fetched.corrupt:
        skipped.add(*record)
    # Corrupt samples first: when every candidate failed, the reason of the first says more.
    tolerance.check(skipped, drawn, drawn_corrupt)
    if fetched.mistake is not None:
        raise InputError(fetched.mistake)
