import io
import json
import math
from pathlib import Path

import pytest

import vrwkv.training.progress as progress_module
from vrwkv.training.metrics import MetricsLog, evaluated_steps, read_metrics
from vrwkv.training.progress import Progress, format_seconds


def test_lines_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in (10, 20, 30):
        log.write(step, {"loss": 1 / step})
    log.write(20, {"top1": 0.5})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 40, "lo')
    log = MetricsLog(tmp_path, resume_step=20)
    log.write(30, {"loss": 3.0})
    log.close()
    assert [(line["step"], line.get("loss")) for line in read_metrics(tmp_path)] == [
        (10, 0.1),
        (20, 0.05),
        (20, None),
        (30, 3.0),
    ]
    assert evaluated_steps(tmp_path) == {20}
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_every_line_is_valid_json_whatever_the_numbers(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write(1, {"loss": math.nan, "grad_norm": math.inf, "lr": 1e-3})
    log.close()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 1, "loss": None, "grad_norm": None, "lr": 1e-3}


def test_plain_lines_come_first_last_and_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    progress = Progress(40, 4, 16, stream=stream)
    for step in range(5, 41):
        progress.update(step, {"loss": 0.12345, "lr": 1e-3})
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("step 5/40  loss 0.1235  lr 0.001")
    assert "samples/s" in lines[0]
    assert "ETA" in lines[0]
    assert lines[-1].startswith("step 40/40")
    assert lines[-1].endswith("ETA 0:00:00")
    assert 3 <= len(lines) <= 10


def test_only_the_main_process_speaks() -> None:
    stream = io.StringIO()
    progress = Progress(2, 0, 1, enabled=False, stream=stream)
    progress.update(2, {})
    progress.message("hello")
    progress.close()
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(2, 1, 8, stream=stream)
    progress.message("a remark")
    progress.update(2, {"loss": 0.5})
    progress.close()
    assert "2/2" in stream.getvalue()
    assert "loss=0.5" in stream.getvalue()
    assert "a remark\n" in stream.getvalue()


def test_seconds_are_written_as_hours_minutes_seconds() -> None:
    assert [format_seconds(seconds) for seconds in (0, 61.4, 7325)] == ["0:00:00", "0:01:01", "2:02:05"]
