"""SIGTERM to a whole process group, as schedulers and `timeout` send it: the run saves, says so, and resumes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vrwkv.commands import train_classifier
from vrwkv.training.checkpoint import latest_checkpoint
from vrwkv.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "--config",
    str(ROOT / "configs" / "classification" / "digits_nano.yaml"),
    "model.embed_dim=16",
    "model.depth=1",
    "data.batch_size=240",
    "data.num_workers=2",
    "train.log_every=1",
    "train.evaluate_every=0",
    "train.save_every=0",
    "schedule.warmup_steps=2",
]


def start(folder: Path) -> subprocess.Popen[str]:
    """A run of a thousand steps in a process group of its own, past its first step."""
    command = [sys.executable, str(ROOT / "tools" / "train_classifier.py"), *OPTIONS, f"run.output={folder}"]
    run = subprocess.Popen(
        [*command, "train.epochs=200"],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").is_file() or not (folder / "metrics.jsonl").stat().st_size:
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return run


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="no sender of a signal is known here")
def test_a_run_whose_workers_are_signalled_too_saves_and_resumes(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    try:
        os.killpg(run.pid, signal.SIGTERM)
        _, said = run.communicate(timeout=60)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 143, said
    assert "run.resume=true continues" in said
    assert "Traceback" not in said
    assert "DataLoader worker" not in said
    saved = latest_checkpoint(tmp_path / "run")
    assert saved is not None
    step = int(saved.name.removeprefix("step_"))
    assert 1 <= step < 1000
    with pytest.raises(ProcessLookupError):  # nothing of the group is left
        os.killpg(run.pid, 0)

    epochs = step // 5 + 1
    train_classifier.main([*OPTIONS, f"run.output={tmp_path / 'run'}", f"train.epochs={epochs}", "run.resume=true"])
    logged = [line["step"] for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert logged == list(range(1, 5 * epochs + 1))
