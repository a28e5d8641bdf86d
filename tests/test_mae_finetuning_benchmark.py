"""The comparison with training from scratch is fair: equal budgets, no judged image in a choice, losses not hidden."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("grain")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def finished(accuracies: dict[str, dict[float, list[tuple[float, float]]]], **plan: Any) -> tuple[Any, dict[str, Any]]:
    """A plan and its results: by row and rate, (tuning, held out) for each seed."""
    from mae_finetuning_runs import Plan

    seeds = range(len(next(iter(next(iter(accuracies.values())).values()))))
    rates = tuple(next(iter(accuracies.values())))
    runs = [
        {"labels": 20, "row": row, "rate": rate, "seed": seed, "tuning": pair[0], "held_out": pair[1], "seconds": 3.0}
        for row, by_rate in accuracies.items()
        for rate, pairs in by_rate.items()
        for seed, pair in enumerate(pairs)
    ]
    pretraining = {str(seed): {"seconds": 40.0} for seed in seeds}
    made = Plan(labels_per_class=(20,), learning_rates=rates, seeds=tuple(seeds), **plan)
    return made, {"machine": "a machine", "plan": made.content(), "pretraining": pretraining, "runs": runs}


def with_rows(fine_tuned: list[tuple[float, float]], whole: list[tuple[float, float]]) -> tuple[Any, dict[str, Any]]:
    from mae_finetuning_runs import FINE_TUNED, SHORT, WHOLE

    return finished({FINE_TUNED: {1e-3: fine_tuned}, SHORT: {1e-3: [(0.5, 0.5)] * 2}, WHOLE: {1e-3: whole}})


def test_budgets_are_equal() -> None:
    from mae_finetuning_runs import FINE_TUNED, SHORT, WHOLE, Plan

    plan = Plan()
    assert plan.labelled_images(SHORT) == plan.labelled_images(FINE_TUNED) >= plan.fine_tuning_steps * plan.batch
    assert 0 <= plan.all_images(WHOLE) - plan.all_images(FINE_TUNED) < plan.images_per_epoch


def test_labels_are_balanced_seeded_and_apart_from_what_is_judged() -> None:
    from mae_finetuning_runs import labelled_images, training_images, tuning_images

    training = training_images()

    def names(source: Any) -> set[str]:
        return {source[index]["name"] for index in range(len(source))}

    many, few, other = (labelled_images(training, *each, 200) for each in ((20, 0), (5, 0), (20, 1)))
    assert np.bincount(many.labels).tolist() == [20] * 10
    assert np.bincount(few.labels).tolist() == [20] * 10
    assert len(names(few)) == 50
    assert names(few) < names(many) != names(other)
    tuning = names(tuning_images(training))
    assert len(tuning) == 287
    assert not tuning & (names(many) | names(other))
    assert tuning < names(training)


def test_the_learning_rate_is_chosen_on_the_tuning_split() -> None:
    from mae_finetuning_report import held_out
    from mae_finetuning_runs import ROWS

    by_rate = {1e-3: [(0.70, 0.99), (0.70, 0.99)], 2e-3: [(0.80, 0.60), (0.70, 0.62)], 4e-3: [(0.6, 0.9), (0.6, 0.9)]}
    plan, raw = finished(dict.fromkeys(ROWS, by_rate))
    assert held_out(raw, plan, 20, ROWS[0]) == {0: 0.60, 1: 0.62}
    for run in raw["runs"]:
        if run["rate"] == 2e-3 and run["seed"] == 1:
            del run["tuning"], run["held_out"]
            run["failed"] = "the loss is not finite"
    assert held_out(raw, plan, 20, ROWS[0]) == {0: 0.99, 1: 0.99}


@pytest.mark.parametrize(
    ("fine_tuned", "whole", "words"),
    [
        ((0.90, 0.80), (0.80, 0.75), "+7.5 points (seed by seed +10.0, +5.0): **fine-tuning ahead**"),
        ((0.70, 0.80), (0.80, 0.82), "-6.0 points (seed by seed -10.0, -2.0): **training from scratch ahead**"),
        ((0.90, 0.80), (0.80, 0.82), "+4.0 points (seed by seed +10.0, -2.0): **no clear winner**"),
    ],
)
def test_who_was_ahead_is_said_plainly(fine_tuned: Any, whole: Any, words: str) -> None:
    from mae_finetuning_report import render

    plan, raw = with_rows([(0.5, each) for each in fine_tuned], [(0.5, each) for each in whole])
    page = render(raw, plan)
    assert f"against training from scratch, the whole budget: {words}" in page
    assert "Not finished" not in page


def test_the_table_has_means_and_sample_deviations() -> None:
    from mae_finetuning_report import render

    plan, raw = with_rows([(0.5, 0.90), (0.7, 0.80)], [(0.5, 0.8), (0.5, 0.8)])
    lines = render(raw, plan).splitlines()
    row = next(line for line in lines if line.startswith("| 20 | MAE, fine-tuned"))
    assert row.endswith("| 40 + 3 | 0.001 | 85.0 ± 7.1 | 90.0, 80.0 |")
    assert "| 20 labels a class, MAE, fine-tuned | **60.0** |" in lines


def test_an_unfinished_row_has_no_number() -> None:
    from mae_finetuning_report import render
    from mae_finetuning_runs import WHOLE

    plan, raw = with_rows([(0.5, 0.9), (0.5, 0.9)], [(0.5, 0.8), (0.5, 0.8)])
    raw["runs"].remove(next(run for run in raw["runs"] if run["row"] == WHOLE and run["seed"] == 1))
    page = render(raw, plan)
    assert "**Not finished: 1 of 3 rows are open.**" in page
    assert "against training from scratch, the whole budget: not finished" in page


def test_results_of_fewer_rows_go_on_and_those_of_other_rules_do_not(tmp_path: Path) -> None:
    from mae_finetuning import start, write
    from mae_finetuning_runs import Plan

    plan, raw = with_rows([(0.5, 0.9), (0.5, 0.9)], [(0.5, 0.8), (0.5, 0.8)])
    write(raw, plan, tmp_path)
    shared = {"learning_rates": plan.learning_rates, "seeds": plan.seeds}
    more = Plan(labels_per_class=(20, 2), **shared)
    extended = start(more, tmp_path)
    assert extended == {**raw, "plan": more.content()}
    assert all(more.labelled_images(run["row"]) == plan.labelled_images(run["row"]) for run in raw["runs"])
    # More labels than before would make every pass longer; other steps or fewer rows are another table.
    for other in (Plan((40, 20), **shared), Plan((20,), fine_tuning_steps=99, **shared), Plan((2,), **shared)):
        with pytest.raises(SystemExit, match="another plan"):
            start(other, tmp_path)


class Stopped(Exception):
    pass


def test_a_stopped_table_goes_on_and_sees_as_many_images_as_planned(tmp_path: Path) -> None:
    from mae_finetuning import measure, start, write
    from mae_finetuning_runs import ROWS, Plan

    plan = Plan((5,), (1e-3,), (0,), pretraining_epochs=1, pretraining_batch=720, fine_tuning_steps=2)

    def stop_after_two(raw: dict[str, Any]) -> None:
        write(raw, plan, tmp_path)
        if len(raw["runs"]) + len(raw["pretraining"]) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        measure(plan, start(plan, tmp_path), tmp_path / "weights", 1, stop_after_two)
    first = start(plan, tmp_path)
    assert (len(first["pretraining"]), len(first["runs"])) == (1, 1)
    again = start(plan, tmp_path)
    measure(plan, again, tmp_path / "weights", 1, lambda raw: write(raw, plan, tmp_path))
    assert again["pretraining"] == first["pretraining"]
    assert first["runs"][0] in again["runs"]
    assert [run["row"] for run in again["runs"]] == list(ROWS)
    for run in again["runs"]:
        assert run["images"] == plan.labelled_images(run["row"])
        assert 0 < run["held_out"] < 1
    fine_tuned, short, _ = again["runs"]
    assert fine_tuned["held_out"] != short["held_out"] or fine_tuned["tuning"] != short["tuning"]
    with pytest.raises(SystemExit, match="another plan"):
        start(Plan(), tmp_path)
