import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkv_clip.evaluate import format_results, read_results, write_results
from vrwkv.errors import InputError


def test_results_of_several_evaluations_are_merged_and_rounded(tmp_path: Path) -> None:
    write_results(tmp_path, {"zero_shot_top1": 1 / 3, "zero_shot_samples": 360})
    merged = write_results(tmp_path, {"i2t_r1": torch.tensor(0.5), "t2i_r1": np.float32(0.25), "skipped": {"count": 2}})
    on_disk = json.loads((tmp_path / "results.json").read_text())
    assert on_disk == merged == read_results(tmp_path)
    assert on_disk == {
        "zero_shot_top1": 0.333333,
        "zero_shot_samples": 360,
        "i2t_r1": 0.5,
        "t2i_r1": 0.25,
        "skipped": {"count": 2},
    }
    assert write_results(tmp_path, {"zero_shot_top1": 0.9})["zero_shot_top1"] == 0.9


def test_a_crash_while_writing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path, {"i2t_r1": 0.5})

    def crash(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="disk full"):
        write_results(tmp_path, {"i2t_r1": 0.75})
    monkeypatch.undo()
    assert read_results(tmp_path) == {"i2t_r1": 0.5}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), float("inf")])
def test_values_that_are_no_fraction_are_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="zero_shot_top1"):
        write_results(tmp_path, {"zero_shot_top1": value})
    assert not list(tmp_path.iterdir())


def test_run_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run folder .*missing does not exist"):
        write_results(tmp_path / "missing", {})
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(InputError, match=r"results\.json is not valid JSON"):
        write_results(tmp_path, {})
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(InputError, match="must hold a JSON object"):
        write_results(tmp_path, {})


def test_the_table_shows_what_is_there() -> None:
    table = format_results({"zero_shot_top1": 0.9375, "t2i_r10": 1.0, "zero_shot_samples": 360, "skipped": "1 of 361"})
    lines = [line.split() for line in table.splitlines()]
    assert lines[0][-2:] == ["93.75", "%"]
    assert lines[1][-2:] == ["100.00", "%"]
    assert lines[2][-1] == "360"
    assert lines[3] == ["skipped", "1", "of", "361"]
    assert "R@5" not in table
    assert format_results({}) == "no results yet"
