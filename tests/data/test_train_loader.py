import contextlib
import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vrwkv.data import CorruptSample, EvaluationLoader, TrainLoader
from vrwkv.data.loader import _Fetched
from vrwkv.data.order import EpochOrder, sample_seed
from vrwkv.data.randomness import seeded_generators
from vrwkv.errors import InputError


class Squares:
    """Images whose first pixel is the index; the indices in `corrupt` cannot be read."""

    def __init__(self, length: int, corrupt: frozenset[int] = frozenset()) -> None:
        self.length = length
        self.corrupt = corrupt

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self.corrupt:
            raise CorruptSample(f"square {index}", "truncated")
        return {"image": Image.new("RGB", (2, 2), (index % 256, index // 256, 0)), "name": f"square {index}"}


def noisy(sample: dict[str, Any], generator: np.random.Generator) -> dict[str, Tensor | int]:
    """Draws from every generator that transforms use, and reports what the sample holds."""
    red, green, _ = sample["image"].getpixel((0, 0))
    noise = [generator.random(), random.random(), np.random.rand(), float(torch.rand(()))]  # noqa: NPY002
    return {"pixel": red + 256 * green, "index": sample["index"], "noise": torch.tensor(noise, dtype=torch.float64)}


def loader(length: int = 50, **options: Any) -> TrainLoader:
    arguments = {"batch_size": 8, "seed": 3, "max_corrupt_fraction": 0.1, **options}
    corrupt = frozenset(arguments.pop("corrupt", ()))
    return TrainLoader(Squares(length, corrupt), noisy, **arguments)


def collected(batches: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    rows = list(batches)
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_an_epoch_holds_each_sample_at_most_once_and_epochs_differ() -> None:
    load = loader()
    assert load.steps_per_epoch == 6
    both = collected(load.batches(0, 12))["index"]
    first, second = both[:6].flatten(), both[6:].flatten()
    assert len(set(first.tolist())) == len(set(second.tolist())) == 48
    assert first.tolist() != second.tolist()
    assert first.tolist() != sorted(first.tolist())


def test_the_tail_of_an_epoch_varies() -> None:
    load = loader()
    missing = [
        set(range(50)) - set(collected(load.batches(e * 6, e * 6 + 6))["index"].flatten().tolist()) for e in (0, 1)
    ]
    assert missing[0] != missing[1]


@pytest.mark.parametrize("corrupt", [(), (4, 5, 49)])
def test_workers_change_nothing(corrupt: tuple[int, ...]) -> None:
    alone, helped = loader(corrupt=corrupt), loader(corrupt=corrupt, num_workers=2)
    assert same(collected(alone.batches(2, 9)), collected(helped.batches(2, 9)))
    assert alone.skipped == helped.skipped


def test_world_size_changes_nothing() -> None:
    whole = collected(loader().batches(0, 8))
    halves = [collected(loader(rank=rank, world_size=2).batches(0, 8)) for rank in (0, 1)]
    assert same(whole, {key: torch.cat([half[key] for half in halves], dim=1) for key in whole})


@pytest.mark.parametrize("start", [1, 5, 6, 7])
def test_start_changes_nothing(start: int) -> None:
    whole = collected(loader().batches(0, 9))
    assert same({key: value[start:] for key, value in whole.items()}, collected(loader().batches(start, 9)))


def test_randomness_belongs_to_epoch_and_index() -> None:
    def noise(**options: Any) -> dict[int, list[float]]:
        data = collected(loader(48, **options).batches(0, 48 // options.get("batch_size", 8)))
        return dict(zip(data["index"].flatten().tolist(), data["noise"].flatten(0, 1).tolist(), strict=True))

    shuffled = noise()
    # The same sample at another position, in a batch of another size, is varied in the same way.
    assert shuffled == noise(shuffle=False) == noise(batch_size=16)
    assert len({tuple(values) for values in shuffled.values()}) == 48
    assert len({value for values in shuffled.values() for value in values}) == 4 * 48
    later = collected(loader(48).batches(6, 12))
    assert not {tuple(v) for v in later["noise"].flatten(0, 1).tolist()} & {tuple(v) for v in shuffled.values()}
    assert noise(seed=4) != shuffled


def test_seeds_are_unrelated() -> None:
    # With seed + epoch as the seed of an epoch, these two would be equal.
    later_epoch, other_seed = EpochOrder(100, 0), EpochOrder(100, 1)
    assert [later_epoch.index(1, p) for p in range(100)] != [other_seed.index(0, p) for p in range(100)]
    states = {
        tuple(sample_seed(*key).generate_state(2)) for key in [(0, 1, 0), (1, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 0)]
    }
    assert len(states) == 5


@pytest.mark.parametrize("length", [1, 2, 3, 17, 256, 1000])
def test_order_is_a_permutation(length: int) -> None:
    order = EpochOrder(length, 5)
    assert sorted(order.index(2, p) for p in range(length)) == list(range(length))


def test_unshuffled_order() -> None:
    index = collected(loader(20, shuffle=False).batches(0, 4))["index"]
    assert index.flatten().tolist() == [*range(16), *range(16)]


@pytest.mark.parametrize("workers", [0, 2])
def test_generators_of_the_main_process_are_left_alone(workers: int) -> None:
    def states() -> tuple[Any, ...]:
        numpy_state = np.random.get_state()  # noqa: NPY002
        return random.getstate(), numpy_state[1].tolist(), numpy_state[2:], torch.get_rng_state().tolist()

    before = states()
    for _ in loader(num_workers=workers).batches(0, 2):
        assert states() == before
    list(EvaluationLoader(Squares(5), noisy, batch_size=2, num_workers=workers))
    assert states() == before


def test_generators_are_restored_after_an_error() -> None:
    before = torch.get_rng_state()
    with contextlib.suppress(KeyError), seeded_generators(np.random.SeedSequence(0)):
        torch.rand(3)
        raise KeyError
    assert torch.equal(before, torch.get_rng_state())


def test_global_generators_do_not_reach_the_data() -> None:
    torch.manual_seed(0)
    first = collected(loader().batches(0, 2))
    torch.manual_seed(1)
    random.seed(1)
    assert same(first, collected(loader().batches(0, 2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_samples_are_replaced_by_the_next_and_counted(workers: int) -> None:
    clean = collected(loader(shuffle=False).batches(0, 12))
    load = loader(shuffle=False, corrupt=(3, 4, 10), num_workers=workers)
    data = collected(load.batches(0, 12))
    index = data["index"][0].tolist()
    assert index == [0, 1, 2, 5, 5, 5, 6, 7]
    assert torch.equal(data["pixel"], data["index"])
    assert torch.equal(data["noise"][0, 3], clean["noise"][0, 5])
    # Per epoch: 3 (then 4), 4, and 10.
    assert load.skipped.count == 2 * 4
    assert load.skipped.indices == {3, 4, 10}
    assert load.skipped.examples == [(f"square {i}", "truncated") for i in (3, 4, 10)]
    report = load.skipped.report()
    assert "3 corrupt samples, met 8 times" in report
    assert "square 3: truncated" in report


def test_the_last_sample_is_replaced_by_the_first() -> None:
    data = collected(loader(16, shuffle=False, corrupt=(15,)).batches(0, 2))
    assert data["index"][1].tolist() == [8, 9, 10, 11, 12, 13, 14, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_bad_sample_in_a_small_set_is_an_error(workers: int) -> None:
    with pytest.raises(InputError) as caught:
        list(loader(corrupt=(7,), max_corrupt_fraction=0.01, num_workers=workers).batches(0, 6))
    message = str(caught.value)
    assert "1 of the set's 50 samples" in message
    assert "square 7: truncated" in message
    assert "data.max_corrupt_fraction" in message
    assert "\n" not in message


def test_one_bad_sample_in_a_large_set_is_skipped() -> None:
    load = loader(1000, batch_size=100, corrupt=(123,), max_corrupt_fraction=0.01)
    assert len(list(load.batches(0, 10))) == 10
    assert load.skipped.count == 1
    assert len(load.skipped.indices) == 1


def test_tolerance_is_the_share_of_the_whole_set() -> None:
    exactly = loader(100, batch_size=50, corrupt=tuple(range(0, 100, 4)), max_corrupt_fraction=0.25)
    assert len(list(exactly.batches(0, 4))) == 4
    one_more = loader(100, batch_size=50, corrupt=(*range(0, 100, 4), 1), max_corrupt_fraction=0.25)
    with pytest.raises(InputError, match=r"26 of the set's 100"):
        list(one_more.batches(0, 4))
    with pytest.raises(InputError):
        list(loader(corrupt=(7,), max_corrupt_fraction=0.0).batches(0, 6))


def test_a_large_set_with_many_bad_samples_fails_early() -> None:
    corrupt = range(0, 30_000, 3)
    load = loader(30_000, batch_size=100, corrupt=corrupt, max_corrupt_fraction=0.02)
    batches = load.batches(0, 300)
    with pytest.raises(InputError, match="samples drawn so far"):
        list(batches)
    assert load.skipped.count < 100


@pytest.mark.parametrize("tolerance", [0.1, 1.0])
def test_nothing_readable_is_an_error(tolerance: float) -> None:
    with pytest.raises(InputError, match=r"square \d+: truncated|none of the 50 samples"):
        list(loader(corrupt=range(50), max_corrupt_fraction=tolerance).batches(0, 1))


def mistaken(sample: dict[str, Any], generator: np.random.Generator) -> dict[str, Tensor | int]:
    raise InputError("the tokenizer has no word list")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_found_by_a_worker_arrives_as_one_line(workers: int) -> None:
    load = TrainLoader(Squares(8), mistaken, batch_size=4, seed=0, num_workers=workers)
    with pytest.raises(InputError) as caught:
        list(load.batches(0, 1))
    assert str(caught.value) == "the tokenizer has no word list"


def process_facts(sample: dict[str, Any], generator: np.random.Generator) -> dict[str, Tensor | int]:
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return {"threads": torch.get_num_threads(), "ignored": int(ignored), "process": os.getpid()}


def test_workers_use_one_thread_and_leave_interrupts_to_the_main_process() -> None:
    batch = next(TrainLoader(Squares(8), process_facts, batch_size=4, seed=0, num_workers=1).batches(0, 1))
    assert batch["threads"].tolist() == [1] * 4
    assert batch["ignored"].tolist() == [1] * 4
    assert batch["process"][0] != os.getpid()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 51}, "50 samples, fewer than one batch of data.batch_size=51"),
        ({"world_size": 3}, "multiple of their number 3, e.g. 6"),
        ({"batch_size": 0}, "at least 1"),
        ({"num_workers": -1}, "must not be negative"),
        ({"max_corrupt_fraction": 1.5}, "between 0 and 1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"rank": 2, "world_size": 2}, "rank 2 does not exist"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loader(**options)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_visits_everything_once_in_order(workers: int) -> None:
    load = EvaluationLoader(Squares(11), noisy, batch_size=4, num_workers=workers)
    batches = list(load)
    assert len(load) == len(batches) == 3
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(11))
    assert load.skipped.report() == "no corrupt samples"
    again = list(load)
    assert all(same(a, b) for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_out_corrupt_samples(workers: int) -> None:
    source = Squares(12, frozenset((1, 4, 5, 6, 7)))
    load = EvaluationLoader(source, noisy, batch_size=4, num_workers=workers, max_corrupt_fraction=0.5)
    for _ in range(2):
        assert [batch["index"].tolist() for batch in load] == [[0, 2, 3], [8, 9, 10, 11]]
        assert load.skipped.count == 5
    strict = EvaluationLoader(source, noisy, batch_size=4, num_workers=workers)
    with pytest.raises(InputError, match=r"square 1: truncated"):
        list(strict)


def test_pinning_reaches_every_tensor_and_keeps_the_account() -> None:
    class Pinnable:
        def pin_memory(self) -> str:
            return "pinned"

    fetched = _Fetched({"image": Pinnable(), "index": Pinnable()}, [(3, "square 3", "truncated")], 2, 1)  # type: ignore[dict-item]
    pinned = fetched.pin_memory()
    assert pinned.batch == {"image": "pinned", "index": "pinned"}
    assert (pinned.corrupt, pinned.drawn, pinned.drawn_corrupt) == ([(3, "square 3", "truncated")], 2, 1)
