"""The sections of a training configuration that every objective shares; `--help` prints the fields' docstrings."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from vrwkv.errors import InputError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _require_number(name: str, value: float, *, above: float | None = None, at_least: float | None = None) -> None:
    bound = f"above {above:g}" if above is not None else f"at least {at_least:g}"
    inside = (above is None or value > above) and (at_least is None or value >= at_least)
    _require(math.isfinite(value) and inside, f"{name} must be {bound}, got {value}")


@dataclass
class RunConfig:
    """Where the run lives and how it starts."""

    output: str
    """Run folder: configuration, checkpoints, metrics and results go here."""
    seed: int = 0
    """Seed of everything random: initial weights, order of the data, augmentation, dropout."""
    device: str = "auto"
    """Device to train on: auto (a GPU where there is one), cpu, cuda, cuda:1, mps."""
    resume: bool = False
    """Continue from the newest checkpoint in the run folder (from the start where there is none yet)."""
    overwrite: bool = False
    """Delete the results that are already in the run folder and start anew."""

    def __post_init__(self) -> None:
        _require(bool(self.output.strip()), "output must name a folder, got an empty string")
        _require(self.seed >= 0, f"seed must be at least 0, got {self.seed}")
        _require(not (self.resume and self.overwrite), "resume and overwrite exclude each other: set one of them")


@dataclass
class TrainConfig:
    """How long to train, how exactly, and what to keep."""

    epochs: int = 10
    """Passes over the training data."""
    lr: float = 1e-3
    """Peak learning rate."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass: fp32, or autocast to bf16 or fp16 (fp16 with loss scaling)."""
    grad_clip: float | None = 1.0
    """Largest total norm of the gradients; larger ones are scaled down to it. null: no limit."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    ema_decay: float | None = None
    """Keep a moving average of the weights with this decay (such as 0.9999), evaluate and return it. null: off."""
    ema_warmup: bool | None = None
    """Let the average's decay rise from 0 to ema_decay, so that it follows the weights from the start. null: in runs
    so short that much of the starting weights would be left in it."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl; a line holds means over these steps."""
    save_every: float = 1.0
    """Epochs between checkpoints, fractions allowed (0.25: four per epoch). 0: only at the end or when interrupted."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints that are kept."""
    evaluate_every: int = 1
    """Epochs between evaluations; there is always one at the end. 0: only at the end."""

    def __post_init__(self) -> None:
        _require_number("epochs", self.epochs, at_least=1)
        _require_number("lr", self.lr, above=0)
        if self.grad_clip is not None:
            _require_number("grad_clip", self.grad_clip, above=0)
        if self.ema_decay is not None:
            _require(0 < self.ema_decay < 1, f"ema_decay must lie between 0 and 1, got {self.ema_decay}")
        _require_number("log_every", self.log_every, at_least=1)
        _require_number("save_every", self.save_every, at_least=0)
        _require_number("keep_checkpoints", self.keep_checkpoints, at_least=1)
        _require_number("evaluate_every", self.evaluate_every, at_least=0)


@dataclass
class OptimConfig:
    """The optimiser and which parameters decay (Vision-RWKV trained with decay published, RWKV-CLIP with all)."""

    name: str = "adamw"
    """Any optimiser of timm (adamw, lamb, lion, sgd, muon, ...)."""
    weight_decay: float = 0.05
    """Strength of the weight decay."""
    decay: Literal["timm", "published", "published_large", "all", "none"] = "timm"
    """What decays. timm: all but 1-D ones and the model's exceptions; published: all but norms and biases;
    published_large: all but norms, biases and layer scales (VRWKV-L)."""
    betas: tuple[float, float] | None = None
    """Decay rates of the moment estimates, such as [0.9, 0.98]. null: the optimiser's own (adamw: 0.9 and 0.999)."""
    eps: float | None = None
    """Term that keeps divisions finite. null: the optimiser's own (adamw: 1e-8)."""
    layer_decay: float | None = None
    """Factor on the learning rate per layer below the top, such as 0.75 for fine-tuning. null: one rate for all."""

    def __post_init__(self) -> None:
        _require_number("weight_decay", self.weight_decay, at_least=0)
        if self.betas is not None:
            _require(all(0 <= beta < 1 for beta in self.betas), f"betas must lie in [0, 1), got {list(self.betas)}")
        if self.eps is not None:
            _require_number("eps", self.eps, above=0)
        if self.layer_decay is not None:
            _require(0 < self.layer_decay <= 1, f"layer_decay must lie in (0, 1], got {self.layer_decay}")


@dataclass
class ScheduleConfig:
    """The learning rate over the run; it changes at every step. onecycle ignores the other keys."""

    name: Literal["cosine", "linear", "constant", "step", "onecycle"] = "cosine"
    """Course after the warm-up. step: constant between milestones; onecycle: RWKV-CLIP's, with its own rise, fall and
    beta1 (0.95-0.85-0.95)."""
    warmup_epochs: float = 0.0
    """Length of the linear warm-up in epochs, fractions allowed; part of train.epochs."""
    warmup_steps: int | None = None
    """Length of the warm-up in steps, instead of warmup_epochs."""
    min_lr: float = 0.0
    """Learning rate at the end of cosine and linear."""
    warmup_lr: float = 0.0
    """Learning rate of the first step of the warm-up."""
    milestones: tuple[float, ...] = ()
    """step: epochs after which the rate is multiplied by decay_rate, such as [8, 11]."""
    decay_rate: float = 0.1
    """step: the factor at each milestone."""

    def __post_init__(self) -> None:
        for name in ("warmup_epochs", "min_lr", "warmup_lr"):
            _require_number(name, getattr(self, name), at_least=0)
        _require(
            (self.name == "step") == bool(self.milestones),
            f"milestones belong to name=step, which needs some: got name={self.name} and {list(self.milestones)}",
        )
        _require(
            all(0 < milestone < math.inf for milestone in self.milestones)
            and list(self.milestones) == sorted(self.milestones),
            f"milestones must be positive and rise, got {list(self.milestones)}",
        )
        _require(0 < self.decay_rate < 1, f"decay_rate must lie between 0 and 1, got {self.decay_rate}")
        if self.warmup_steps is not None:
            _require_number("warmup_steps", self.warmup_steps, at_least=0)
            _require(self.warmup_epochs == 0, "warmup_steps and warmup_epochs exclude each other: set one of them")


class FitConfig(Protocol):
    """What the loop reads: any dataclass with these four sections (and further ones of its own) will do."""

    @property
    def run(self) -> RunConfig:
        """Where the run lives."""

    @property
    def train(self) -> TrainConfig:
        """How long to train."""

    @property
    def optim(self) -> OptimConfig:
        """The optimiser."""

    @property
    def schedule(self) -> ScheduleConfig:
        """The learning rate."""
