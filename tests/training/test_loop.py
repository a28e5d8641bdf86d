import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vrwkv.errors import InputError
from vrwkv.training.checkpoint import latest_checkpoint, list_checkpoints
from vrwkv.training.config import OptimConfig, RunConfig, ScheduleConfig, TrainConfig
from vrwkv.training.loop import FitResult, fit
from vrwkv.training.metrics import read_metrics
from vrwkv.training.randomness import seed_generators


@dataclass
class DataConfig:
    batch_size: int = 8
    num_workers: int = 0


@dataclass
class Config:
    run: RunConfig
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(warmup_steps=2))
    data: DataConfig = field(default_factory=DataConfig)


class Regression:
    """Loader of a fixed linear problem; a batch is a function of the step."""

    def __init__(self, steps_per_epoch: int = 5, batch_size: int = 8) -> None:
        self.steps_per_epoch, self.batch_size = steps_per_epoch, batch_size
        self.before_step: Callable[[int], None] = lambda step: None

    def batches(self, start_step: int, stop_step: int) -> Iterator[dict[str, Tensor]]:
        for step in range(start_step, stop_step):
            self.before_step(step)
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(self.batch_size, 4, generator=generator)
            yield {"x": x, "y": x.sum(dim=1, keepdim=True)}


class SquaredError:
    """Mean squared error; counts the calls after updates."""

    def __init__(self) -> None:
        self.updates = 0

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        error = functional.mse_loss(model(batch["x"]).float(), batch["y"])
        return error, {"rmse": error.detach().sqrt()}

    def after_step(self, model: nn.Module) -> None:
        self.updates += 1


def network() -> nn.Module:
    seed_generators(0)
    return nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 1))


def config_for(folder: Path, **train: Any) -> Config:
    train = {"epochs": 4, "lr": 1e-2, "log_every": 2, **train}
    return Config(RunConfig(str(folder), seed=7), TrainConfig(**train))


def run(config: Config, loader: Regression | None = None, objective: Any = None, **options: Any) -> FitResult:
    return fit(network(), objective or SquaredError(), loader or Regression(), config, config.run.output, **options)


def resumed(config: Config) -> Config:
    return replace(config, run=replace(config.run, resume=True))


def curve(folder: str | Path) -> list[dict[str, Any]]:
    """The logged lines without what depends on the clock."""
    return [{k: v for k, v in line.items() if k != "samples_per_second"} for line in read_metrics(folder)]


def interrupt_at(loader: Regression, interrupted_step: int, number: int = signal.SIGINT) -> Regression:
    def send(step: int) -> None:
        if step == interrupted_step:
            os.kill(os.getpid(), number)

    loader.before_step = send
    return loader


def assert_same_files(first: Path | None, second: Path | None) -> None:
    assert first is not None
    assert second is not None
    for file in first.glob("*.safetensors"):
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name


def test_loss_goes_down_and_the_run_folder_is_complete(tmp_path: Path) -> None:
    objective = SquaredError()
    result = run(config_for(tmp_path, epochs=20), objective=objective)
    lines = read_metrics(tmp_path)
    assert lines[-1]["loss"] < 0.3 * lines[0]["loss"]
    assert [line["step"] for line in lines] == list(range(2, 101, 2))
    assert {"step", "epoch", "loss", "rmse", "grad_norm", "lr", "samples_per_second"} == set(lines[0])
    assert lines[-1]["epoch"] == 20
    assert (result.steps, result.skipped, objective.updates) == (100, 0, 100)
    assert result.seconds > 0
    assert not result.model.training
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000095", "step_00000100"]
    assert (tmp_path / "config.yaml").is_file()


@pytest.mark.parametrize(
    "options", [{}, {"ema_decay": 0.9}, {"ema_decay": 0.99}, {"precision": "bf16"}, {"precision": "fp16"}]
)
@pytest.mark.parametrize("interrupted_step", [3, 9])
def test_an_interrupted_and_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, options: dict[str, Any], interrupted_step: int
) -> None:
    whole, parts = (config_for(tmp_path / name, **options) for name in ("whole", "parts"))
    expected = run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(parts, interrupt_at(Regression(), interrupted_step))
    assert (
        latest_checkpoint(parts.run.output) == tmp_path / "parts" / "checkpoints" / f"step_{interrupted_step + 1:08d}"
    )
    actual = run(resumed(parts))
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(tensor, actual.model.state_dict()[name]), name
    assert_same_files(latest_checkpoint(whole.run.output), latest_checkpoint(parts.run.output))
    assert curve(whole.run.output) == curve(parts.run.output)
    assert actual.steps == expected.steps


def test_a_crash_loses_only_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    whole, parts = (config_for(tmp_path / name, ema_decay=0.5) for name in ("whole", "parts"))
    run(whole)

    def crash(step: int) -> None:
        if step == 13:
            raise RuntimeError("power cut")

    loader = Regression()
    loader.before_step = crash
    with pytest.raises(RuntimeError, match="power cut"):
        run(parts, loader)
    assert read_metrics(parts.run.output)[-1]["step"] == 12  # logged, though the last checkpoint is at 10
    run(resumed(parts))
    assert_same_files(latest_checkpoint(whole.run.output), latest_checkpoint(parts.run.output))
    assert curve(whole.run.output) == curve(parts.run.output)


def test_dropout_is_the_steps_own_and_not_the_callers(tmp_path: Path) -> None:
    first = run(config_for(tmp_path / "a"))
    loader = Regression()
    loader.before_step = lambda step: torch.manual_seed(step) and None
    second = run(config_for(tmp_path / "b"), loader)
    other_seed = config_for(tmp_path / "c")
    other_seed.run.seed = 8
    third = run(other_seed)
    weights = [result.model.state_dict()["0.weight"] for result in (first, second, third)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_sigterm_saves_and_ends_with_its_status(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    previous = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        run(config_for(tmp_path), interrupt_at(Regression(), 6, signal.SIGTERM))
    assert caught.value.code == 143
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step_00000007"
    assert "run.resume=true continues" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is previous


def test_a_signal_during_the_last_evaluation_is_not_lost(tmp_path: Path) -> None:
    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return {"top1": 0.5}

    with pytest.raises(KeyboardInterrupt):
        run(config_for(tmp_path, evaluate_every=0), evaluate=evaluate)
    assert read_metrics(tmp_path)[-1]["top1"] == 0.5


def test_fit_runs_outside_the_main_thread(tmp_path: Path) -> None:
    results: list[FitResult] = []
    thread = threading.Thread(target=lambda: results.append(run(config_for(tmp_path))))
    thread.start()
    thread.join()
    assert results[0].steps == 20


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_train(tmp_path: Path, precision: str) -> None:
    dtypes: list[torch.dtype] = []

    class Watching(SquaredError):
        def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
            dtypes.append(model(batch["x"]).dtype)
            return super().loss(model, batch)

    result = run(config_for(tmp_path, epochs=12, precision=precision), objective=Watching())
    lines = read_metrics(tmp_path)
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert set(dtypes) == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert result.model.get_parameter("0.weight").dtype == torch.float32


class InfiniteGradient(torch.autograd.Function):
    """Zero, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.inf


class Overflowing(SquaredError):
    def __init__(self, bad_steps: range) -> None:
        super().__init__()
        self.bad_steps = bad_steps

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(model, batch)
        return (loss + InfiniteGradient.apply(loss) if self.updates in self.bad_steps else loss), metrics


def test_fp16_skips_updates_that_overflow_and_gives_up_at_last(tmp_path: Path) -> None:
    def skipped(name: str, bad_steps: range) -> int:
        return run(config_for(tmp_path / name, precision="fp16"), objective=Overflowing(bad_steps)).skipped

    assert skipped("some", range(10, 13)) == skipped("none", range(0)) + 3
    with pytest.raises(InputError, match="50 steps in a row"):
        run(config_for(tmp_path / "all", precision="fp16", epochs=20), objective=Overflowing(range(1000)))


def test_gradients_that_are_not_finite_stop_the_run_without_loss_scaling(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the norm of the gradients is (inf|nan) at step 3"):
        run(config_for(tmp_path), objective=Overflowing(range(2, 3)))


def test_gradients_are_clipped_to_the_total_norm(tmp_path: Path) -> None:
    def change(grad_clip: float | None) -> float:
        config = config_for(tmp_path / str(grad_clip), epochs=1, lr=1.0, grad_clip=grad_clip)
        config.optim = OptimConfig("sgd", decay="none")
        config.schedule = ScheduleConfig("constant")
        before = network()
        result = run(config, Regression(steps_per_epoch=1))
        pairs = zip(before.parameters(), result.model.parameters(), strict=True)
        return math.sqrt(sum((a - b).square().sum().item() for a, b in pairs))

    unlimited = change(None)
    assert unlimited > 0.1
    # timm's sgd is Nesterov with momentum 0.9: the first update is 1.9 gradients
    assert unlimited == pytest.approx(1.9 * read_metrics(tmp_path / "None")[0]["grad_norm"], rel=1e-4)
    assert change(0.01) == pytest.approx(0.019, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoints(tmp_path: Path) -> None:
    class Diverging(SquaredError):
        def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
            loss, metrics = super().loss(model, batch)
            return (loss * math.nan if self.updates == 7 else loss), metrics

    with pytest.raises(InputError) as caught:
        run(config_for(tmp_path), objective=Diverging())
    message = str(caught.value)
    assert "the loss is nan at step 8" in message
    assert "lower train.lr" in message
    assert str(tmp_path / "checkpoints" / "step_00000005") in message
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000005"]


def test_evaluation_sees_the_average_in_eval_mode_when_it_is_due(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        seen.append((step, model.training))
        return {"weight": model.get_parameter("0.weight").sum().item()}

    result = run(config_for(tmp_path / "a", epochs=5, evaluate_every=2, ema_decay=0.9), evaluate=evaluate)
    assert seen == [(10, False), (20, False), (25, False)]
    logged = [line["weight"] for line in read_metrics(tmp_path / "a") if "weight" in line]
    assert logged[-1] == result.model.get_parameter("0.weight").sum().item()
    seen.clear()
    run(config_for(tmp_path / "b", evaluate_every=0), evaluate=evaluate)
    assert seen == [(20, False)]


def test_an_evaluation_that_was_cut_off_is_made_up_for(tmp_path: Path) -> None:
    seen: list[int] = []

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        seen.append(step)
        return {"top1": 0.5}

    config = config_for(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(config, interrupt_at(Regression(), 9), evaluate=evaluate)
    run(resumed(config), evaluate=evaluate)
    run(resumed(config), evaluate=evaluate)  # finished: nothing is left to do
    assert seen == [5, 10, 15, 20]


def test_the_average_follows_its_definition(tmp_path: Path) -> None:
    trail: list[Tensor] = []

    class Recording(SquaredError):
        def after_step(self, model: nn.Module) -> None:
            trail.append(model.get_parameter("0.weight").detach().clone())

    result = run(config_for(tmp_path, epochs=1, ema_decay=0.75, ema_warmup=False), objective=Recording())
    expected = trail[0]
    for weight in trail[1:]:
        expected = 0.75 * expected + 0.25 * weight
    torch.testing.assert_close(result.model.get_parameter("0.weight").detach(), expected)


def test_an_average_follows_in_runs_too_short_for_its_decay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def distance(name: str, **train: Any) -> float:
        """Of the evaluated weights from the last ones, over the way that training went."""
        last: list[Tensor] = []

        class Recording(SquaredError):
            def after_step(self, model: nn.Module) -> None:
                last[:] = [model.get_parameter("0.weight").detach().clone()]

        result = run(config_for(tmp_path / name, epochs=8, **train), objective=Recording())
        way = last[0] - network().get_parameter("0.weight").detach()
        return ((result.model.get_parameter("0.weight").detach() - last[0]).norm() / way.norm()).item()

    assert distance("short", ema_decay=0.999) < 0.4
    said = capsys.readouterr().err
    assert "note: 40 steps are few for train.ema_decay 0.999" in said
    assert "rises from 0 to 0.915" in said
    assert distance("fixed", ema_decay=0.999, ema_warmup=False) > 0.8
    assert "after all 40 steps, 96% of the averaged weights are still the starting ones" in capsys.readouterr().err
    assert distance("asked for", ema_decay=0.999, ema_warmup=True) == distance("again", ema_decay=0.999)
    capsys.readouterr()
    assert distance("long", ema_decay=0.5) == distance("long, fixed", ema_decay=0.5, ema_warmup=False)
    assert "averaged weights" not in capsys.readouterr().err


def test_longer_training_continues_a_finished_run(tmp_path: Path) -> None:
    config = config_for(tmp_path, epochs=2)
    run(config)
    longer = resumed(replace(config, train=replace(config.train, epochs=3)))
    assert run(longer).steps == 15
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4, 6, 8, 10, 12, 14, 15]
    with pytest.raises(InputError, match="asks for 5 steps, 15 are done"):
        run(resumed(replace(config, train=replace(config.train, epochs=1))))


def test_gradient_checkpointing_needs_a_model_that_can(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set_grad_checkpointing"):
        run(config_for(tmp_path, grad_checkpointing=True))
    assert not (tmp_path / "config.yaml").exists()


def test_resume_refuses_data_of_another_size(tmp_path: Path) -> None:
    run(config_for(tmp_path))
    with pytest.raises(InputError, match="steps_per_epoch was 5 and is 6"):
        run(resumed(config_for(tmp_path)), Regression(steps_per_epoch=6))
