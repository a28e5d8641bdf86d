"""benchmarks/segmentation_sizes.py and small_segmentors.py measure nothing wrong, and say what they measured."""

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delenv("VRWKV_BACKEND", raising=False)


def test_both_backbones_get_the_same_light_head() -> None:
    from segmentation_sizes import CLASSES, OURS, VIT, build, scores

    ours, rival = build(OURS), build(VIT)
    assert str(ours.decode_head) == str(rival.decode_head)
    assert ours.decode_head.channels <= 128
    assert CLASSES <= 20
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert scores(ours, image).shape == scores(rival, image).shape == (1, CLASSES, 64, 64)


def test_a_wrong_segmentation_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    import segmentation_sizes
    from segmentation_sizes import OURS, measure

    monkeypatch.setattr("fresh_process.ENOUGH", 0.1)
    original, calls = segmentation_sizes.scores, []

    def drifting(model: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return original(model, image) * (1 + 0.001 * len(calls))

    assert measure(OURS, 64)["difference"] < 1e-4
    monkeypatch.setattr(segmentation_sizes, "scores", drifting)
    with pytest.raises(SystemExit, match="from the portable backend: not timed"):
        measure(OURS, 64)
    monkeypatch.setattr(segmentation_sizes, "scores", lambda model, image: original(model, image) / 0)
    with pytest.raises(SystemExit, match="not finite: not timed"):
        measure(OURS, 64)


def test_compared_segmentors_are_equally_large() -> None:
    from small_segmentors import ROWS, parameters

    assert len({parameters(name) // 200_000 for name in ROWS}) <= 2


def test_runs_are_recorded_and_not_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import small_segmentors

    asked = []

    def train(config: str, seed: int, rate: float, folder: Path, overrides: list[str]) -> dict:
        asked.append((seed, rate))
        if len(asked) == 4:
            raise SystemExit("interrupted")
        miou = 0.5 + 0.1 * seed if rate == 1e-2 else 0.9
        return {"config": config, "seed": seed, "rate": rate, "loss": 1 / rate, "miou": miou, "seconds": 3.0}

    monkeypatch.setattr(small_segmentors, "train", train)
    monkeypatch.setattr(small_segmentors, "parameters", lambda name: 1000)
    monkeypatch.setattr(small_segmentors, "write_ade20k", lambda *_: None)
    arguments = ["small_segmentors.py", "--rows", "digit_scenes_vit", "--output", str(tmp_path), "--processes", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="interrupted"):
        small_segmentors.main()
    small_segmentors.main()
    assert asked == [(0, 3e-3), (0, 1e-2), (1, 1e-2), (2, 1e-2), (2, 1e-2)]
    page = (tmp_path / "small_segmentors.md").read_text()
    assert "| ViT, plain | 1,000 | 0.01 | 60.0 ± 10.0 | 50.0, 60.0, 70.0 | 3 |" in page
    assert len(json.loads((tmp_path / "small_segmentors.json").read_text())["runs"]) == 4
