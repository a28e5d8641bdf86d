"""Everything that a contrastive training run can be told; the file `config.yaml` of a run folder is this."""

from dataclasses import dataclass, field
from typing import Literal

from rwkv_clip.data.config import DataConfig, SourceConfig
from rwkv_clip.model import ModelConfig
from vrwkv.errors import InputError
from vrwkv.training.config import OptimConfig, RunConfig, ScheduleConfig, TrainConfig


@dataclass
class EvaluateConfig:
    """What is measured at the end of training and by zero_shot.py and retrieval.py."""

    zero_shot: SourceConfig | None = None
    """Labelled images (kind folder or digits) to classify by their class names; null: no zero-shot classification."""
    retrieval: SourceConfig | None = None
    """Images and captions to find from each other; null: no retrieval."""
    batch_size: int = 256
    """Images or texts encoded at once."""

    def __post_init__(self) -> None:
        if self.zero_shot is not None and self.zero_shot.kind not in ("folder", "digits"):
            raise InputError(
                f"evaluate.zero_shot.kind must be folder or digits, which have classes, not {self.zero_shot.kind}"
            )
        if self.batch_size < 1:
            raise InputError(f"evaluate.batch_size must be at least 1, not {self.batch_size}")


@dataclass
class ClipConfig:
    """Contrastive image-text pretraining."""

    run: RunConfig
    """Where the run lives and how it starts."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The two towers."""
    data: DataConfig = field(default_factory=DataConfig)
    """Training data and how it is fed."""
    loss: Literal["clip", "siglip"] = "clip"
    """Contrastive loss: clip (softmax over the batch) or siglip (every pair by itself; set model.init_bias)."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long to train, how exactly, and what to keep."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser and which parameters decay."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate over the run."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """What is measured at the end."""

    def __post_init__(self) -> None:
        if self.loss == "siglip" and self.model.init_bias is None:
            raise InputError("loss siglip needs a bias: set model.init_bias, for example to -10")
