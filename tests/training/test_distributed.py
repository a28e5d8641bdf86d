import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.training.checkpoint import latest_checkpoint
from vrwkv.training.config import OptimConfig, RunConfig, ScheduleConfig, TrainConfig
from vrwkv.training.distributed import Distributed, choose_device, distributed_run
from vrwkv.training.loop import fit
from vrwkv.training.metrics import read_metrics
from vrwkv.training.precision import Precision
from vrwkv.training.randomness import seed_generators


@dataclass
class Config:
    run: RunConfig
    train: TrainConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


class Slices:
    """Loader of this process's slice of each batch; sends itself SIGTERM before one step."""

    steps_per_epoch, batch_size = 4, 8

    def __init__(self, distributed: Distributed, interrupted_step: int | None = None) -> None:
        size = self.batch_size // distributed.world_size
        self.slice = slice(distributed.rank * size, (distributed.rank + 1) * size)
        self.interrupted_step = interrupted_step

    def batches(self, start_step: int, stop_step: int) -> Iterator[dict[str, Tensor]]:
        for step in range(start_step, stop_step):
            if step == self.interrupted_step:
                os.kill(os.getpid(), signal.SIGTERM)
            x = torch.randn(self.batch_size, 4, generator=torch.Generator().manual_seed(step))
            yield {"x": x[self.slice], "y": x.prod(dim=1, keepdim=True)[self.slice]}


class SquaredError:
    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        return (model(batch["x"]) - batch["y"]).square().mean(), {"mean_x": batch["x"].mean()}

    def after_step(self, model: nn.Module) -> None:
        assert type(model) is nn.Sequential  # never the wrapper


def train(folder: Path, distributed: Distributed, *, resume: bool = False, interrupted_step: int | None = None) -> None:
    seed_generators(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
    settings = TrainConfig(epochs=3, lr=0.05, log_every=1, ema_decay=0.5)

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        assert distributed.is_main
        return {"top1": 0.5}

    config = Config(RunConfig(str(folder), resume=resume), settings)
    fit(model, SquaredError(), Slices(distributed, interrupted_step), config, folder, distributed, evaluate)


def process_of_two(rank: int, port: int, folder: Path) -> None:
    """One of two processes: is interrupted, refused and resumed. Exit status 0 if all went well."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()})
    with distributed_run("cpu") as distributed:
        assert distributed.sum([1.0, torch.tensor(rank)]) == [2.0, 1.0]
        with pytest.raises(InputError, match="only here"):
            distributed.on_main(lambda: fail(InputError("only here")))
        with pytest.raises(ZeroDivisionError if rank == 0 else RuntimeError):
            distributed.on_main(lambda: fail(ZeroDivisionError()))
        with pytest.raises(SystemExit) as caught:
            train(folder, distributed, interrupted_step=5 if rank == 1 else None)  # only the second one is told to stop
        assert caught.value.code == 143
        assert (latest_checkpoint(folder) or folder).name == "step_00000006"
        with pytest.raises(InputError, match="already holds results"):
            train(folder, distributed)
        train(folder, distributed, resume=True)
    assert not torch.distributed.is_initialized()


def fail(error: Exception) -> None:
    raise error


def assert_close_runs(first: Path, second: Path) -> None:
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        expected, actual = (
            safetensors.torch.load_file((latest_checkpoint(run) or run) / name) for run in (first, second)
        )
        assert set(expected) == set(actual)
        for key, tensor in expected.items():
            torch.testing.assert_close(actual[key], tensor, atol=1e-6, rtol=1e-5)
    lines = [
        [(x["step"], x.get("loss"), x.get("mean_x"), x.get("top1")) for x in read_metrics(r)] for r in (first, second)
    ]
    assert len(lines[0]) == 15
    for expected_line, actual_line in zip(*lines, strict=True):
        assert actual_line == pytest.approx(expected_line, abs=1e-6)


def test_two_processes_on_half_batches_are_one_on_whole_batches(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=process_of_two, args=(rank, port, tmp_path / "two")) for rank in range(2)]
    for process in processes:
        process.start()
    train(tmp_path / "one", Distributed())
    for process in processes:
        process.join(timeout=120)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    assert_close_runs(tmp_path / "one", tmp_path / "two")


def test_a_single_process_needs_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with distributed_run("cpu") as distributed:
        assert distributed == Distributed(device=torch.device("cpu"))
        assert not torch.distributed.is_initialized()
        assert distributed.on_main(lambda: 3) == 3


def test_mistakes_are_input_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        choose_device("gpu")
    with pytest.raises(InputError, match="cannot train"):
        choose_device("meta")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA GPU"):
            choose_device("cuda:1")
    with pytest.raises(InputError, match="unknown precision 'fp8'"):
        Precision("fp8", torch.device("cpu"))
    with pytest.raises(InputError, match="fp16 is not supported on mps"):
        Precision("fp16", torch.device("mps"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="RANK"), distributed_run("cpu"):
        pass
