"""One update of a model: forward, backward, clipping, optimiser, moving average, and what every process must know."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from vrwkv.device import to_device
from vrwkv.errors import InputError
from vrwkv.training.config import FitConfig
from vrwkv.training.distributed import Distributed, unwrap_model
from vrwkv.training.interruption import agreed_signal, signal_flags
from vrwkv.training.objective import Objective
from vrwkv.training.precision import Precision
from vrwkv.training.randomness import seed_generators
from vrwkv.training.schedule import Schedule

# fp16 skips updates while it looks for a loss scale; so many in a row mean that there is none.
MOST_SKIPS_IN_A_ROW = 50


@dataclass
class StepOutcome:
    """What a step tells the loop; the same on every process."""

    values: dict[str, float]
    """`loss`, the objective's metrics and `grad_norm` (before clipping), means over the processes."""
    skipped: bool
    """Whether fp16 loss scaling skipped the update."""
    stop_signal: int
    """The signal by which some process was asked to stop, 0 for none."""


class TrainingStep:
    """Performs steps of a run; see `fit` for the arguments.

    Args:
        model: wrapped for the processes of the run.
        ema: moving average of the bare model, None for none.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        precision: Precision,
        ema: ModelEmaV3 | None,
        config: FitConfig,
        distributed: Distributed,
    ) -> None:
        self.model, self.bare, self.objective = model, unwrap_model(model), objective
        self.optimizer, self.schedule, self.precision, self.ema = optimizer, schedule, precision, ema
        self.seed, self.grad_clip, self.distributed = config.run.seed, config.train.grad_clip, distributed
        self.parameters = [parameter for parameter in self.bare.parameters() if parameter.requires_grad]

    def __call__(self, step: int, batch: Mapping[str, Any], received_signal: int = 0) -> StepOutcome:
        """Do step number `step` (from 0) on this process's slice of its batch.

        Raises:
            InputError: the loss or, outside fp16, a gradient is not finite. The weights are as before the step.
        """
        device = self.distributed.device
        batch = {key: to_device(value, device) for key, value in batch.items()}
        seed_generators(self.seed, step, self.distributed.rank)
        self.schedule.set_step(step)
        with self.precision.autocast():
            loss, metrics = self.objective.loss(self.model, batch)
        self.precision.backward(loss)
        norm = self.precision.clip_gradients(self.optimizer, self.parameters, self.grad_clip)
        outcome = self._agree(loss, metrics, norm, received_signal)
        self._check_finite(step, outcome)
        self.precision.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.objective.after_step(self.bare)
        if self.ema is not None and not outcome.skipped:
            self.ema.update(self.bare, step=step + 1)
        return outcome

    def _agree(self, loss: Tensor, metrics: Mapping[str, Tensor], norm: Tensor, received: int) -> StepOutcome:
        """Exchange everything in one reduction, the only synchronisation of a step."""
        totals = self.distributed.sum([*signal_flags(received), norm, loss, *metrics.values()])
        means = [total / self.distributed.world_size for total in totals[2:]]
        values = dict(zip(["loss", *metrics, "grad_norm"], [*means[1:], means[0]], strict=True))
        skipped = self.precision.scaler is not None and not _is_finite(values["grad_norm"])
        return StepOutcome(values, skipped, agreed_signal(totals))

    def _check_finite(self, step: int, outcome: StepOutcome) -> None:
        what = ["loss"] if self.precision.scaler is not None else ["loss", "grad_norm"]
        bad = [name for name in what if not _is_finite(outcome.values[name])]
        if bad:
            lr = max(group["lr"] for group in self.optimizer.param_groups)
            name = "the loss" if bad[0] == "loss" else "the norm of the gradients"
            raise InputError(
                f"{name} is {outcome.values[bad[0]]} at step {step + 1} (lr {lr:.3g}): try a lower train.lr, a longer "
                "warm-up (schedule.warmup_epochs), a smaller train.grad_clip, or train.precision bf16 or fp32"
            )


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")
