"""benchmarks/image_sizes.py prints no time of a wrong output, stops what takes too long, and says so."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delenv("VRWKV_BACKEND", raising=False)


def use_model(monkeypatch: pytest.MonkeyPatch, damage: Any = lambda features: features) -> None:
    def build(name: str) -> torch.nn.Module:
        torch.manual_seed(0)
        model = timm.create_model(name, depth=1)
        original = model.forward_features
        monkeypatch.setattr(model, "forward_features", lambda x: damage(original(x)))
        return model

    monkeypatch.setattr("image_sizes.build", build)
    monkeypatch.setattr("fresh_process.ENOUGH", 0.2)


def test_a_right_model_is_timed_and_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    from fresh_process import largest_resident
    from image_sizes import OURS, measure

    use_model(monkeypatch)
    found = measure(OURS, 40)
    assert found["tokens"] == 9
    assert 0 <= found["difference"] < 1e-4
    assert 100 << 20 < found["peak_bytes"] <= largest_resident()
    assert min(found["all"]) <= found["seconds"] <= max(found["all"])


def test_a_wrong_output_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from image_sizes import OURS, measure

    use_model(monkeypatch, lambda features: features / 0 if features.shape[1] == 9 else features)
    with pytest.raises(SystemExit, match="an output is not finite: not timed"):
        measure(OURS, 48)
    calls = []
    use_model(monkeypatch, lambda features: calls.append(1) or features * (1 + 0.001 * len(calls)))
    with pytest.raises(SystemExit, match="from the portable backend: not timed"):
        measure(OURS, 48)


def test_what_takes_too_long_is_stopped_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from image_sizes import OURS, TABLE, VIT

    asked = []

    def run(command: list[str], timeout: float, **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[-1])
        if VIT in command[-1]:
            raise subprocess.TimeoutExpired(command, timeout)
        if "448" in command[-1]:
            return subprocess.CompletedProcess(command, -9, "", "")
        result = '{"seconds": 0.5, "all": [0.5], "peak_bytes": 1048576, "tokens": 196, "difference": 2e-7}'
        return subprocess.CompletedProcess(command, 0, f"compiled\n{result}\n", "")

    monkeypatch.setattr("fresh_process.subprocess.run", run)
    pages = []
    page = TABLE.render(TABLE.measure_all((448, 224, 896), 600, lambda partial: pages.append(TABLE.render(partial))))
    assert len(asked) == 3
    assert len(pages) == 6
    assert "| 224 | 196 | 0.5 | stopped after 10 minutes | – | 1 | – |" in page
    assert "| 448 | – | killed: out of memory | not tried: gave up at 224 px | – | – | – |" in page
    assert "| 896 | – | not tried: gave up at 448 px | not tried: gave up at 224 px | – | – | – |" in page
    assert OURS in asked[0]


def test_a_real_process_over_its_limit_is_stopped() -> None:
    from fresh_process import in_fresh_process
    from image_sizes import TABLE, VIT

    assert in_fresh_process(TABLE.script, {"name": VIT, "size": 224}, 0.2) == {"stopped": 0.2}


def test_sizes_of_nothing_are_refused() -> None:
    program = [sys.executable, str(BENCHMARKS / "image_sizes.py"), "--sizes", "224", "0"]
    finished = subprocess.run(program, capture_output=True, text=True)
    assert finished.returncode == 2
    assert "must be greater than 0" in finished.stderr
