"""The table of small classifiers is fair: models of one size, no held-out image in a choice, failures not hidden."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def small_plan() -> Any:
    from small_classifiers_runs import Plan

    return Plan(data=("digits",), rows=("vrwkv", "vit"), learning_rates=(1e-3, 2e-3, 4e-3), seeds=(0, 1))


def finished(plan: Any, tuning: dict[str, list[float | None]], judged: dict[str, list[float | None]]) -> dict[str, Any]:
    """Results: for each row accuracies on the tuning split by rate, then held-out ones by seed; None is a failure."""
    from small_classifiers_report import chosen_rate

    def entry(row: str, rate: float, seed: int, tuned: bool, top1: float | None) -> dict[str, Any]:
        result = {"failed": "the loss is nan"} if top1 is None else {"top1": top1, "samples": 400, "seconds": 7.0}
        return {"data": "digits", "row": row, "rate": rate, "seed": seed, "tuning": tuned, **result}

    runs = [
        entry(row, rate, plan.tuning_seed, True, top1)
        for row, found in tuning.items()
        for rate, top1 in zip(plan.learning_rates, found, strict=True)
    ]
    raw: dict[str, Any] = {"machine": "a machine", "parameters": {"digits": dict.fromkeys(plan.rows, 1234)}}
    raw |= {"plan": plan.content(), "runs": runs}
    for row, found in judged.items():
        rate = chosen_rate(raw, plan, "digits", row)
        assert rate is not None
        runs += [entry(row, rate, seed, False, top1) for seed, top1 in zip(plan.seeds, found, strict=True)]
    return raw


def test_models_are_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    import small_classifiers_runs as runs

    for data in runs.DATA:
        counts = runs.count_parameters(data)
        assert set(counts) == set(runs.ROWS)
        assert max(counts.values()) / min(counts.values()) <= 1.1
        assert counts["vit"] == counts["vit_deit"] != counts["vrwkv"] == counts["vrwkv_deit"]
    architecture, options = runs.MODELS["vit"]
    monkeypatch.setitem(runs.MODELS, "vit", (architecture, {**options, "depth": 6}))
    with pytest.raises(SystemExit, match=r"digits: vit has [\d,]+ parameters, vrwkv [\d,]+: not comparable"):
        runs.count_parameters("digits")


@pytest.mark.parametrize("data", ["digits", "fonts"])
def test_the_tuning_split_is_of_training_images_only(data: str, request: pytest.FixtureRequest) -> None:
    if data == "fonts":
        request.getfixturevalue("all_fonts")
    from small_classifiers_runs import sources

    def names(source: Any) -> set[str]:
        return {source[index]["name"] for index in range(len(source))}

    (rest, tuning), (train, held_out) = (tuple(map(names, sources(data, tuned))) for tuned in (True, False))
    assert not train & held_out
    assert not rest & tuning
    assert rest | tuning == train
    assert 0.15 < len(tuning) / len(train) < 0.3
    if data == "fonts":
        assert not {name.split()[2] for name in rest} & {name.split()[2] for name in tuning}


def test_every_row_gets_the_same_budget() -> None:
    from small_classifiers import runs_of
    from small_classifiers_runs import Plan

    plan = Plan()
    raw: dict[str, Any] = {"runs": []}
    for data in plan.data:
        rates = [{run.rate for run in runs_of(plan, raw) if (run.data, run.row) == (data, row)} for row in plan.rows]
        assert rates == [set(plan.learning_rates)] * len(plan.rows)
    assert len(plan.seeds) == 3
    assert plan.tuning_seed not in plan.seeds
    assert all(run.tuning for run in runs_of(plan, raw))


def test_the_rate_is_chosen_on_the_tuning_split() -> None:
    from small_classifiers_report import chosen_rate

    plan = small_plan()
    raw = finished(plan, {"vrwkv": [0.7, 0.9, 0.8], "vit": [None, 0.8, 0.8]}, {})
    assert chosen_rate(raw, plan, "digits", "vrwkv") == 2e-3
    assert chosen_rate(raw, plan, "digits", "vit") == 2e-3
    raw["runs"] += [{**raw["runs"][0], "seed": 0, "tuning": False, "top1": 1.0}]
    assert chosen_rate(raw, plan, "digits", "vrwkv") == 2e-3
    del raw["runs"][2]
    assert chosen_rate(raw, plan, "digits", "vrwkv") is None


@pytest.mark.parametrize(
    ("ours", "rival", "words"),
    [
        ([0.90, 0.88], [0.80, 0.75], "+11.5 points: **ahead**"),
        ([0.70, 0.72], [0.80, 0.75], "-6.5 points: **behind**"),
        ([0.90, 0.70], [0.80, 0.75], "+2.5 points: **no clear difference**"),
    ],
)
def test_who_was_ahead_is_said_plainly(ours: list[float], rival: list[float], words: str) -> None:
    from small_classifiers_report import render

    plan = small_plan()
    raw = finished(plan, {row: [0.5, 0.6, 0.5] for row in plan.rows}, {"vrwkv": ours, "vit": rival})
    page = render(raw, plan)
    assert f"- vrwkv against ViT: {words}\n" in page
    assert f"The highest mean is that of {'vrwkv' if sum(ours) > sum(rival) else 'ViT'}." in page
    assert "Not finished" not in page


def test_the_table_has_means_deviations_and_edges() -> None:
    from small_classifiers_report import render

    plan = small_plan()
    tuning = {"vrwkv": [0.5, 0.6, 0.7], "vit": [0.5, 0.6, None]}
    lines = render(finished(plan, tuning, {"vrwkv": [0.9, 0.8], "vit": [0.7, 0.7]}), plan).splitlines()
    assert "| vrwkv | 1,234 | 0.004 (edge of the sweep) | **85.0 ± 7.1** | 90.0, 80.0 | 7 |" in lines
    assert "| ViT | 1,234 | 0.002 | 70.0 ± 0.0 | 70.0, 70.0 | 7 |" in lines
    assert "| Scanned digits, ViT | 50.0 | **60.0** | not finite |" in lines


def test_a_loss_that_is_not_finite_is_shown() -> None:
    from small_classifiers_report import render

    plan = small_plan()
    tuning = {"vrwkv": [0.5, 0.6, 0.5], "vit": [None, None, None]}
    page = render(finished(plan, tuning, {"vrwkv": [0.9, None]}), plan)
    assert "| vrwkv | 1,234 | 0.002 | a loss was not finite | 90.0, not finite | – |" in page
    assert "| ViT | 1,234 | – | no rate kept the loss finite | – | – |" in page
    assert "highest mean" not in page


def test_an_unfinished_row_has_no_number() -> None:
    from small_classifiers_report import render

    plan = small_plan()
    raw = finished(plan, {row: [0.5, 0.6, 0.5] for row in plan.rows}, {"vrwkv": [0.9, 0.8], "vit": [0.7, 0.7]})
    raw["runs"].pop()
    page = render(raw, plan)
    assert "**Not finished: 1 of 2 rows have no result.**" in page
    assert "| ViT | 1,234 | 0.002 | not finished | – | – |" in page
    assert "against ViT" not in page


class Stopped(Exception):
    pass


def test_a_stopped_table_goes_on_and_gives_what_one_run_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import small_classifiers_runs as runs
    from small_classifiers import measure, start, write

    monkeypatch.setitem(runs.DATA, "digits", replace(runs.DATA["digits"], epochs=1, batch_size=512))
    monkeypatch.setattr(runs, "SCHEDULE", replace(runs.SCHEDULE, warmup_epochs=0))
    plan = runs.Plan(data=("digits",), rows=("vit", "resnet"), learning_rates=(1e-3,), seeds=(0,))

    def stop_after_two(raw: dict[str, Any]) -> None:
        write(raw, plan, tmp_path)
        if len(raw["runs"]) == 2:
            raise Stopped

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(Stopped):
            measure(plan, start(plan, tmp_path), pool, 1, stop_after_two)
        assert "Not finished" in (tmp_path / "small_classifiers.md").read_text()
        raw = start(plan, tmp_path)
        measure(plan, raw, pool, 1, lambda partial: write(partial, plan, tmp_path))
    assert len(raw["runs"]) == 4
    assert "Not finished" not in (tmp_path / "small_classifiers.md").read_text()
    again = runs.training(runs.Run("digits", "resnet", 1e-3, 0, False))
    assert again["samples"] == 359
    assert {each["top1"] for each in raw["runs"] if each["row"] == "resnet" and not each["tuning"]} == {again["top1"]}
    with pytest.raises(SystemExit, match="results of another plan"):
        start(replace(plan, seeds=(1,)), tmp_path)


def test_a_diverging_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import small_classifiers_runs as runs

    monkeypatch.setitem(runs.DATA, "digits", replace(runs.DATA["digits"], epochs=2, batch_size=512))
    monkeypatch.setattr(runs, "SCHEDULE", replace(runs.SCHEDULE, warmup_epochs=0))
    result = runs.training(runs.Run("digits", "vit", 1e38, 0, False))
    assert set(result) == {"failed"}
    assert result["failed"].startswith("the loss is nan at step 2 (lr ")
