"""Training data and randomness as functions of seed and step, so that an interrupted mmengine run loses nothing.

mmengine alone goes on with other random numbers after an interruption, loads all earlier batches once more to skip
them, and draws augmentations that depend on the number of workers.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.registry import DATA_SAMPLERS, LOOPS
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from mmseg.registry import TRANSFORMS
from torch.utils.data import DataLoader

from vrwkv.training.randomness import seed_generators


class Draw(int):
    """An index of a data set that knows its position in the endless sequence of all samples of a run."""

    position: int

    def __new__(cls, index: int, position: int) -> "Draw":
        """The index `index`, drawn as number `position`."""
        draw = super().__new__(cls, index)
        draw.position = position
        return draw

    def __reduce__(self) -> tuple[Any, ...]:
        return Draw, (int(self), self.position)


@DATA_SAMPLERS.register_module()
class ExactSampler(InfiniteSampler):
    """mmengine's `InfiniteSampler` whose indices know their position, and which starts anywhere at no cost.

    Attributes:
        start: samples of this process to leave out.
    """

    start = 0

    def __iter__(self) -> Iterator[int]:
        """Yield this process's share of the endless sequence from `start` on."""
        first = self.rank + self.start * self.world_size
        numbered = (Draw(index, position) for position, index in enumerate(self._infinite_indices()))
        yield from itertools.islice(numbered, first, None, self.world_size)


@TRANSFORMS.register_module()
class SeedSample(BaseTransform):
    """First step of a training pipeline: the sample's augmentation follows from seed and position alone.

    Args:
        seed: the run's.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Seed the generators that the further steps draw from; the sample itself stays as it is."""
        index = results.get("sample_idx")
        if isinstance(index, Draw):
            seed_generators(self.seed, 1, index.position)
        return results


class _SkippingIterator(_InfiniteDataloaderIterator):
    """Batches of a loader that starts in the right place; those that mmengine loads to skip them cost nothing."""

    def __init__(self, dataloader: DataLoader, done: int) -> None:
        super().__init__(dataloader)
        self._to_skip = done

    def skip_iter(self, num_iters: int) -> None:
        """Leave out batches, as later versions of mmengine do."""
        self._to_skip -= num_iters

    def __next__(self) -> Any:
        """The next batch; None in the place of one that was learnt from before the interruption."""
        if self._to_skip > 0:
            self._to_skip -= 1
            return None
        return super().__next__()


@LOOPS.register_module()
class ExactTrainLoop(IterBasedTrainLoop):
    """mmengine's `IterBasedTrainLoop` whose steps draw the same random numbers whether or not a run was interrupted."""

    def run(self) -> None:
        """Train; a resumed run goes on with the batch after the last one it learnt from, without loading the others."""
        done = self._iter
        if done:
            self.dataloader.sampler.start = done * self.dataloader.batch_size
            self.dataloader_iterator = _SkippingIterator(self.dataloader, done)
        return super().run()

    def run_iter(self, data_batch: Any) -> None:
        """One step."""
        seed_generators(self.runner.seed, 0, self._iter, self.runner.rank)
        super().run_iter(data_batch)


def order_exactly(config: Config) -> None:
    """Put these parts in the place of mmengine's in a configuration that trains by steps; others stay as they are."""
    loader, loop = config.train_dataloader, config.train_cfg
    sampler: Any = loader.get("sampler") or {}
    if sampler.get("type") != "InfiniteSampler" or loop.get("type", "IterBasedTrainLoop") != "IterBasedTrainLoop":
        return
    if "pipeline" not in loader.dataset or (loop.get("by_epoch") and "type" not in loop):
        return
    randomness = {**(config.get("randomness") or {})}
    randomness["seed"] = 0 if randomness.get("seed") is None else randomness["seed"]
    config.randomness = randomness
    sampler.type, loop.type = "ExactSampler", "ExactTrainLoop"
    loop.pop("by_epoch", None)
    # The sampler's own seed comes from the process group's shared generator otherwise.
    sampler.seed = randomness["seed"]
    loader.dataset.pipeline = [{"type": "SeedSample", "seed": randomness["seed"]}, *loader.dataset.pipeline]
