"""Workers outlive signals from outside, and end when the main process says so, fails, or dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from vrwkv.data import TrainLoader
from vrwkv.data.worker_processes import signals_held_back

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="no sender of a signal is known here")


class Numbers:
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {}


def worker_of(sample: dict[str, Any], generator: np.random.Generator) -> dict[str, Tensor | int]:
    return {"process": os.getpid()}


def has_ended(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def ends_within(seconds: float, process: int) -> bool:
    deadline = time.monotonic() + seconds
    while not has_ended(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return has_ended(process)


def test_signals_from_outside_cost_no_batch_and_the_main_process_is_obeyed() -> None:
    batches = TrainLoader(Numbers(), worker_of, batch_size=4, seed=0, num_workers=2).batches(0, 10)
    workers = {int(next(batches)["process"][0]) for _ in range(2)}
    assert len(workers) == 2
    for name in ("TERM", "INT", "TERM"):
        subprocess.run(["kill", f"-{name}", *map(str, workers)], check=True)
    time.sleep(0.2)
    assert not any(has_ended(worker) for worker in workers)
    assert len(list(batches)) == 8
    assert all(ends_within(10, worker) for worker in workers)

    batches = TrainLoader(Numbers(), worker_of, batch_size=4, seed=0, num_workers=1).batches(0, 10)
    worker = int(next(batches)["process"][0])
    os.kill(worker, signal.SIGTERM)
    assert ends_within(5, worker)
    batches.close()


PROGRAM = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from test_worker_processes import Numbers, TrainLoader, worker_of
batches = TrainLoader(Numbers(), worker_of, batch_size=4, seed=0, num_workers=1).batches(0, 10)
print(int(next(batches)["process"][0]), flush=True)
{ending}
"""


@pytest.mark.parametrize(
    ("ending", "status"), [("os.kill(os.getpid(), signal.SIGKILL)", -9), ("raise RuntimeError('a bug')", 1)]
)
def test_workers_end_with_the_main_process(ending: str, status: int) -> None:
    program = PROGRAM.format(folder=str(Path(__file__).parent), ending=ending)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as main:
        assert main.stdout is not None
        worker = int(main.stdout.readline())
        assert main.wait(timeout=30) == status
        assert ends_within(15, worker)


WAITING = "import signal; print(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))))"


def test_signals_wait_in_processes_while_they_start() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with signals_held_back():
        started = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, check=True)
    assert {signal.SIGINT, signal.SIGTERM} <= set(json.loads(started.stdout))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
