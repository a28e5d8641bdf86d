"""The learning rate at every step: timm's schedulers per step, and the one-cycle schedule of RWKV-CLIP."""

import math
from typing import Any, Protocol

import torch
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler

from vrwkv.errors import InputError
from vrwkv.training.config import ScheduleConfig


class Schedule(Protocol):
    """Sets the optimiser's learning rates as a function of the step's number alone, so nothing needs saving."""

    def set_step(self, step: int) -> None:
        """Set the rates for the step with this number, counted from 0 over the whole run."""


class TimmSchedule:
    """One of timm's schedulers, advanced per step."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def set_step(self, step: int) -> None:
        """Set the rates of step `step` (from 0)."""
        self.scheduler.step_update(step)


class OneCycleSchedule:
    """torch's OneCycleLR with its defaults and `pct_start=0.1`, as RWKV-CLIP was trained; without state.

    The rate runs from lr/25 over lr (after a tenth of the run) to lr/25e4, the first moment's decay rate (or momentum)
    from 0.95 over 0.85 to 0.95, both along half cosines.
    """

    start_factor = 1 / 25
    end_factor = 1 / 25 / 1e4
    momentum_range = (0.95, 0.85)

    def __init__(self, optimizer: torch.optim.Optimizer, lr: float, total_steps: int) -> None:
        self.optimizer = optimizer
        self.lr = lr
        self.peak = 0.1 * total_steps - 1
        self.end = total_steps - 1

    def set_step(self, step: int) -> None:
        """Set rates and moments of step `step` (from 0)."""
        rest, busy = self.momentum_range
        if step <= self.peak:
            share = step / self.peak if self.peak > 0 else 1.0
            factor, momentum = _half_cosine(self.start_factor, 1.0, share), _half_cosine(rest, busy, share)
        else:
            peak = max(self.peak, 0.0)
            share = (step - peak) / (self.end - peak) if self.end > peak else 0.0
            factor, momentum = _half_cosine(1.0, self.end_factor, share), _half_cosine(busy, rest, share)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor * group.get("lr_scale", 1.0)
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif "momentum" in group:
                group["momentum"] = momentum


def create_schedule(
    optimizer: torch.optim.Optimizer, config: ScheduleConfig, lr: float, epochs: int, steps_per_epoch: int
) -> Schedule:
    """The schedule of a run of `epochs` times `steps_per_epoch` steps with peak rate `lr`.

    Raises:
        InputError: a warm-up as long as the run, or bounds above the peak.
    """
    total_steps = epochs * steps_per_epoch
    if config.name == "onecycle":
        return OneCycleSchedule(optimizer, lr, total_steps)
    warmup = config.warmup_steps
    if warmup is None:
        warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup >= total_steps:
        raise InputError(f"the warm-up of {warmup} steps (schedule.warmup_*) does not fit a run of {total_steps} steps")
    for name in ("min_lr", "warmup_lr"):
        if getattr(config, name) > lr:
            raise InputError(f"schedule.{name} {getattr(config, name):g} is above the peak train.lr {lr:g}")
    for group in optimizer.param_groups:
        group["initial_lr"] = lr  # timm multiplies by a group's lr_scale itself
    options: dict[str, Any] = {"warmup_t": warmup, "warmup_lr_init": config.warmup_lr, "t_in_epochs": False}
    falling = {"t_initial": total_steps, "lr_min": config.min_lr, **options}
    if config.name == "cosine":
        return TimmSchedule(CosineLRScheduler(optimizer, **falling))
    if config.name == "linear":
        return TimmSchedule(PolyLRScheduler(optimizer, power=1.0, **falling))
    if config.name == "step":
        # timm applies milestone m at step m - 1, and would count from the end of the warm-up.
        steps = [round(milestone * steps_per_epoch) + 1 for milestone in config.milestones]
        options |= {"decay_rate": config.decay_rate, "warmup_prefix": False}
        return TimmSchedule(MultiStepLRScheduler(optimizer, decay_t=steps, **options))
    return TimmSchedule(StepLRScheduler(optimizer, decay_t=1, decay_rate=1.0, **options))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
