"""The training loop: one for every objective, on one process or many, resumable to the bit."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from vrwkv.errors import InputError
from vrwkv.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from vrwkv.training.config import FitConfig
from vrwkv.training.distributed import Distributed, unwrap_model, wrap_model
from vrwkv.training.interruption import Interruption, agreed_signal, signal_flags, stop_exception
from vrwkv.training.metrics import MetricsLog, evaluated_steps
from vrwkv.training.moving_average import create_average
from vrwkv.training.objective import Objective
from vrwkv.training.optimizer import create_optimizer
from vrwkv.training.precision import Precision
from vrwkv.training.progress import Progress
from vrwkv.training.run_folder import prepare_run_folder
from vrwkv.training.schedule import create_schedule
from vrwkv.training.step import MOST_SKIPS_IN_A_ROW, StepOutcome, TrainingStep

Evaluate = Callable[[nn.Module, int], dict[str, float]]


class Loader(Protocol):
    """Batches by step number, so that the data of a step is the same in an interrupted run."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""

    @property
    def batch_size(self) -> int:
        """Samples in a batch, over all processes."""

    def batches(self, start_step: int, stop_step: int) -> Iterator[dict[str, Any]]:
        """This process's slice of the batches of steps start_step to stop_step - 1, counted over all epochs."""


@dataclass
class FitResult:
    """What a finished run leaves."""

    steps: int
    """Steps of the whole run, those before a resume included."""
    seconds: float
    """Time spent in training over all sessions of the run, without evaluating and saving."""
    model: nn.Module
    """The trained model, unwrapped, in eval mode: the moving average where there is one."""
    skipped: int
    """Updates that fp16 loss scaling skipped."""


@dataclass
class _LoopState:
    """The loop's own part of a checkpoint."""

    steps_per_epoch: int
    batch_size: int
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    window: dict[str, float] = field(default_factory=dict)
    """Sums of the metrics over the `window_steps` steps since the last logged line."""
    window_steps: int = 0


def fit(
    model: nn.Module,
    objective: Objective,
    loader: Loader,
    config: FitConfig,
    run_folder: str | Path,
    distributed: Distributed | None = None,
    evaluate: Evaluate | None = None,
) -> FitResult:
    """Train a model, or go on training it, and leave checkpoints, `config.yaml` and `metrics.jsonl` in the run folder.

    The same configuration gives the same run whether or not it was interrupted, to the bit on the CPU: batches and
    randomness are functions of the step, everything else is in the checkpoint.

    Args:
        model: the bare model, built alike on every process (`seed_generators(config.run.seed)` before building it).
        objective: the loss.
        loader: batches by step.
        config: dataclass with the sections of `FitConfig` and any others; all of it is kept in `config.yaml`.
        run_folder: where everything goes; see `run_folder.py` for when it is refused.
        distributed: this process among others, from `distributed_run`; None for a single process on the CPU.
        evaluate: metrics of a model (unwrapped, the moving average where there is one, in eval mode) after a number of
            steps. Called every `train.evaluate_every` epochs and at the end, on the main process while the others wait.

    Raises:
        InputError: a run folder or configuration that does not fit, or a loss that is no longer finite.
        KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM, once the step is finished and saved.
    """
    loop = _Loop(model, objective, loader, config, Path(run_folder), distributed or Distributed(), evaluate)
    with Interruption() as interruption:
        return loop.run(interruption)


class _Loop:
    """A run in progress. Whatever can be wrong with its configuration shows before the first step."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        loader: Loader,
        config: FitConfig,
        run_folder: Path,
        distributed: Distributed,
        evaluate: Evaluate | None,
    ) -> None:
        self.loader, self.config, self.run_folder = loader, config, run_folder
        self.distributed, self.evaluate = distributed, evaluate
        train, steps_per_epoch = config.train, loader.steps_per_epoch
        self.total_steps = train.epochs * steps_per_epoch
        self.save_interval = max(1, round(train.save_every * steps_per_epoch)) if train.save_every else self.total_steps
        self.evaluate_interval = train.evaluate_every * steps_per_epoch or self.total_steps
        self.precision = Precision(train.precision, distributed.device)
        model.to(distributed.device)
        self.bare = unwrap_model(model)
        if train.grad_checkpointing:
            if not hasattr(self.bare, "set_grad_checkpointing"):
                raise InputError(
                    f"train.grad_checkpointing: {type(self.bare).__name__} has no set_grad_checkpointing()"
                )
            self.bare.set_grad_checkpointing(True)  # type: ignore[operator]
        self.optimizer = create_optimizer(self.bare, config.optim, train.lr)
        self.ema = None
        if train.ema_decay:
            self.ema = create_average(
                self.bare, train.ema_decay, train.ema_warmup, self.total_steps, announce=distributed.is_main
            )
        schedule = create_schedule(self.optimizer, config.schedule, train.lr, train.epochs, steps_per_epoch)
        self.state = _LoopState(steps_per_epoch, loader.batch_size)

        checkpoint = distributed.on_main(lambda: prepare_run_folder(run_folder, config))
        self.start_step = self._restore(checkpoint) if checkpoint is not None else 0
        self.saved_step = self.start_step if checkpoint is not None else None
        self.model = wrap_model(model, distributed)
        self.step = TrainingStep(
            self.model, objective, self.optimizer, schedule, self.precision, self.ema, config, distributed
        )

    def run(self, interruption: Interruption) -> FitResult:
        """Train from the first open step to the end."""
        main = self.distributed.is_main
        self.progress = Progress(self.total_steps, self.start_step, self.loader.batch_size, enabled=main)
        self.metrics = MetricsLog(self.run_folder, self.start_step) if main else None
        if self.config.run.resume:
            where = f"after step {self.start_step}" if self.start_step else "from the beginning (nothing is saved)"
            self.progress.message(f"resuming {self.run_folder} {where} (of {self.total_steps} steps)")
        try:
            if self._evaluation_is_missing():
                self._run_evaluation(self.start_step)
            self._train(interruption)
            late_signal = agreed_signal(self.distributed.sum(signal_flags(interruption.signal or 0)))
            if late_signal:
                raise stop_exception(late_signal)
        finally:
            self.progress.close()
            if self.metrics is not None:
                self.metrics.close()
        return FitResult(self.total_steps, self.state.seconds, self._evaluated_model().eval(), self.state.skipped)

    def _train(self, interruption: Interruption) -> None:
        self.model.train()
        self._window_seconds, self._window_samples = 0.0, 0
        batches = self.loader.batches(self.start_step, self.total_steps)
        try:
            clock = time.monotonic()
            for step, batch in zip(range(self.start_step, self.total_steps), batches, strict=True):
                outcome = self._checked_step(step, batch, interruption)
                seconds = time.monotonic() - clock
                self._count(outcome, seconds)
                with self.progress.pause():
                    self._after_step(step + 1, outcome)
                clock = time.monotonic()
        finally:
            if hasattr(batches, "close"):
                batches.close()  # ends the loader's worker processes

    def _checked_step(self, step: int, batch: dict[str, Any], interruption: Interruption) -> StepOutcome:
        try:
            outcome = self.step(step, batch, interruption.signal or 0)
        except InputError as error:
            kept = latest_checkpoint(self.run_folder)
            last = f"the last good checkpoint is {kept}" if kept is not None else "no checkpoint was saved yet"
            raise InputError(f"{error}; {last}") from None
        self.state.skipped += outcome.skipped
        self.state.skipped_in_a_row = self.state.skipped_in_a_row + 1 if outcome.skipped else 0
        if self.state.skipped_in_a_row >= MOST_SKIPS_IN_A_ROW:
            raise InputError(
                f"the fp16 gradients overflowed at {MOST_SKIPS_IN_A_ROW} steps in a row, up to step {step + 1}: "
                "try train.precision bf16 or fp32, or a lower train.lr"
            )
        return outcome

    def _count(self, outcome: StepOutcome, seconds: float) -> None:
        state = self.state
        state.seconds += seconds
        state.window_steps += 1
        for name, value in outcome.values.items():
            state.window[name] = state.window.get(name, 0.0) + value
        self._window_seconds += seconds
        self._window_samples += self.loader.batch_size

    def _after_step(self, step: int, outcome: StepOutcome) -> None:
        """What is due once `step` steps are finished: show, log, save, stop, evaluate, in this order."""
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        self.progress.update(step, {**self._epoch(step), "loss": outcome.values["loss"], "lr": lr})
        if step % self.config.train.log_every == 0 or step == self.total_steps:
            self._log(step, lr)
        if step % self.save_interval == 0 or step == self.total_steps or outcome.stop_signal:
            self._save(step)
        if outcome.stop_signal:
            self.progress.message(
                f"stopped after step {step} of {self.total_steps}, saved in {self.run_folder}: the same command with "
                "run.resume=true continues"
            )
            raise stop_exception(outcome.stop_signal)
        if self._evaluation_is_due(step):
            self._run_evaluation(step)
            self.model.train()

    def _log(self, step: int, lr: float) -> None:
        state = self.state
        if self.metrics is not None:
            means = {name: total / state.window_steps for name, total in state.window.items()}
            samples_per_second = self._window_samples / max(self._window_seconds, 1e-9)
            self.metrics.write(
                step, {**self._epoch(step), **means, "lr": lr, "samples_per_second": round(samples_per_second, 2)}
            )
        state.window, state.window_steps = {}, 0
        self._window_seconds, self._window_samples = 0.0, 0

    def _save(self, step: int) -> None:
        if self.saved_step != step:
            self.distributed.on_main(lambda: self._write_checkpoint(step))
            self.saved_step = step

    def _write_checkpoint(self, step: int) -> None:
        try:
            save_checkpoint(
                self.run_folder,
                step,
                self.bare,
                self.optimizer,
                ema=self.ema.module if self.ema is not None else None,
                scaler=self.precision.scaler,
                extra=dataclasses.asdict(self.state),
                keep=self.config.train.keep_checkpoints,
            )
        except OSError as error:
            raise InputError(f"cannot save a checkpoint in '{self.run_folder}' after step {step}: {error}") from None

    def _restore(self, checkpoint: Path) -> int:
        """Load everything from a checkpoint; returns the number of finished steps."""
        ema = self.ema.module if self.ema is not None else None
        step, extra = load_checkpoint(checkpoint, self.bare, self.optimizer, ema=ema, scaler=self.precision.scaler)
        saved = _LoopState(**extra)
        for name in ("steps_per_epoch", "batch_size"):
            before, now = getattr(saved, name), getattr(self.state, name)
            if before != now:
                raise InputError(f"cannot resume {checkpoint}: {name} was {before} and is {now}; has the data changed?")
        if step > self.total_steps:
            raise InputError(
                f"cannot resume {checkpoint}: train.epochs asks for {self.total_steps} steps, {step} are done"
            )
        self.state = saved
        return step

    def _evaluation_is_due(self, step: int) -> bool:
        return self.evaluate is not None and (step % self.evaluate_interval == 0 or step == self.total_steps)

    def _evaluation_is_missing(self) -> bool:
        """Whether the run was stopped between saving a step and evaluating it."""
        if self.start_step == 0 or not self._evaluation_is_due(self.start_step):
            return False
        return self.distributed.on_main(lambda: self.start_step not in evaluated_steps(self.run_folder))

    def _run_evaluation(self, step: int) -> None:
        """Evaluate and log a line of its own, which has no `loss`."""
        model = self._evaluated_model().eval()
        values = self.distributed.on_main(lambda: self.evaluate(model, step))  # type: ignore[misc]
        if self.metrics is not None:
            self.metrics.write(step, {**self._epoch(step), **values})
        self.progress.message("  ".join([f"step {step}", *(f"{k} {v:.4g}" for k, v in values.items())]))

    def _evaluated_model(self) -> nn.Module:
        return self.ema.module if self.ema is not None else self.bare

    def _epoch(self, step: int) -> dict[str, float]:
        return {"epoch": round(step / self.loader.steps_per_epoch, 4)}
