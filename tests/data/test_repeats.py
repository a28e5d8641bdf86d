"""Repeated augmentation: the same order and the same randomness, whoever asks and from where."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vrwkv.data import TrainLoader
from vrwkv.data.order import sample_seed
from vrwkv.errors import InputError


class Numbers:
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"name": str(index)}


def noisy(sample: dict[str, Any], generator: np.random.Generator) -> dict[str, Tensor | int]:
    return {"index": sample["index"], "noise": torch.rand(1), "drawn": float(generator.random())}  # type: ignore[dict-item]


def epoch(repeats: int, start: int = 0, stop: int = 4, **options: Any) -> dict[str, Tensor]:
    loader = TrainLoader(Numbers(), noisy, batch_size=6, seed=3, repeats=repeats, **options)
    assert loader.steps_per_epoch == 4
    batches = list(loader.batches(start, stop))
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def test_an_epoch_shows_a_share_of_its_order_several_times_in_a_row() -> None:
    once, thrice = epoch(1), epoch(3)
    assert torch.equal(thrice["index"], once["index"][:8].repeat_interleave(3))
    assert len(set(thrice["noise"].flatten().tolist())) == 24
    assert torch.equal(thrice["noise"][::3], once["noise"][:8])
    assert torch.equal(thrice["drawn"][::3], once["drawn"][:8])


@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_randomness_do_not_depend_on_start_ranks_or_workers(workers: int) -> None:
    whole = epoch(3, 0, 8)
    later = epoch(3, 5, 8, num_workers=workers)
    assert all(torch.equal(later[key], whole[key][30:]) for key in whole)
    ranks = [epoch(3, 0, 1, rank=rank, world_size=2, num_workers=workers) for rank in range(2)]
    assert all(torch.equal(torch.cat([rank[key] for rank in ranks]), whole[key][:6]) for key in whole)


def test_the_seed_of_a_repeat_is_like_no_other() -> None:
    keys = [(0, 1, 0), (0, 1, 1), (0, 1, 2), (1, 1, 0), (0, 2, 0), (0, 0, 1), (1, 0, 1)]
    states = {tuple(sample_seed(0, *key).generate_state(4)) for key in keys}
    assert len(states) == len(keys)


def test_no_repeat_at_all_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.repeats"):
        TrainLoader(Numbers(), noisy, batch_size=6, seed=3, repeats=0)
