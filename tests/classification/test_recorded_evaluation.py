"""Which numbers stay in results.json when a model is evaluated again."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from vrwkv.commands.recorded_evaluation import record_evaluation, weights_fingerprint
from vrwkv.evaluate.results import write_results

CLASSIFIED = {"top1": 0.5, "samples": 8, "evaluation_data": "eight images"}
PROBED = {"knn_top1": 0.25, "knn_k": 5}


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """A run folder after classification, at other resolutions as well, and a probe; `model()` was evaluated."""
    (tmp_path / "report").mkdir()
    for name in ("confusion.png", "per_class.csv", "resolution.png", "training.png"):
        (tmp_path / "report" / name).write_text("")
    write_results(tmp_path, {"parameters": 6})
    record_evaluation(tmp_path, model(), CLASSIFIED)
    write_results(tmp_path, {"resolution_top1": {8: 0.5}})
    record_evaluation(tmp_path, model(), PROBED)
    return tmp_path


def model(bias: float = 0.0) -> nn.Module:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.fill_(1)
        layer.bias.fill_(bias)
    return layer


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def reports(folder: Path) -> set[str]:
    return {path.name for path in (folder / "report").iterdir()}


def test_the_same_weights_and_images_keep_everything(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = results(evaluated)
    record_evaluation(evaluated, model(), CLASSIFIED)
    assert results(evaluated) == before
    assert before["resolution_top1"] == {"8": 0.5}
    assert before.keys() == {"parameters", "resolution_top1", "evaluated_weights", *CLASSIFIED, *PROBED}
    assert len(reports(evaluated)) == 4
    assert capsys.readouterr().out == ""


def test_other_images_drop_accuracies_by_resolution(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_evaluation(evaluated, model(), {**CLASSIFIED, "evaluation_data": "other images"})
    assert "resolution_top1" not in results(evaluated)
    assert results(evaluated)["knn_top1"] == 0.25
    assert reports(evaluated) == {"confusion.png", "per_class.csv", "training.png"}
    assert "measured on other weights or images: resolution_top1" in capsys.readouterr().out


def test_other_weights_drop_what_was_measured_on_the_former(evaluated: Path) -> None:
    record_evaluation(evaluated, model(1e-7), PROBED)
    assert results(evaluated).keys() == {"parameters", "evaluated_weights", *PROBED}
    assert reports(evaluated) == {"training.png"}
    record_evaluation(evaluated, model(), CLASSIFIED)
    assert results(evaluated).keys() == {"parameters", "evaluated_weights", *CLASSIFIED}


def test_results_that_do_not_say_which_weights_keep_what_was_measured_once(tmp_path: Path) -> None:
    write_results(tmp_path, {"top1": 0.5, "evaluation_data": "eight images", "resolution_top1": {8: 0.5}})
    record_evaluation(tmp_path, model(), PROBED)
    assert results(tmp_path)["top1"] == 0.5
    (tmp_path / "results.json").unlink()
    write_results(tmp_path, {**PROBED, "evaluation_data": "eight images", "resolution_top1": {8: 0.5}})
    record_evaluation(tmp_path, model(), CLASSIFIED)
    assert results(tmp_path).keys() == {"evaluated_weights", *CLASSIFIED, *PROBED}


def test_the_fingerprint_sees_every_tensor_of_every_kind() -> None:
    layers = nn.ModuleDict({"norm": nn.BatchNorm2d(2), "brain": nn.Linear(2, 1).bfloat16()})
    seen = {weights_fingerprint(layers)}
    for tensor in layers.state_dict().values():
        tensor.add_(1)
        seen.add(weights_fingerprint(layers))
    assert len(seen) == 1 + len(layers.state_dict())
    assert weights_fingerprint(torch.compile(model())) == weights_fingerprint(model())
