"""Everything that training a classifier can be told; the file `config.yaml` of a run folder is this."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

import timm

from vrwkv.data.augmentation import AugmentationConfig
from vrwkv.data.labelled import LabelledDataConfig
from vrwkv.errors import InputError
from vrwkv.models import registry
from vrwkv.objectives.data_config import TrainingDataConfig
from vrwkv.training.config import OptimConfig, RunConfig, ScheduleConfig, TrainConfig


@dataclass
class ClassifierModelConfig:
    """The classifier. Fields left null keep the architecture's own values."""

    architecture: str = "vrwkv_tiny_patch16_224"
    """Any image model of timm or of this toolkit: vrwkv_tiny_patch16_224, vrwkv6_small_patch16_224, vit_tiny_..."""
    checkpoint: str = ""
    """Weights to start from: a run folder, a .safetensors file, or a published .pth. A classifier for another number
    of classes is replaced, positions are resampled to image_size."""
    num_classes: int | None = None
    """Classes to tell apart; null: as many as the training data has."""
    image_size: int | None = None
    """Pixels on each side that images are brought to, and that positions are learnt for."""
    max_tokens: int | None = None
    """Largest number of patches of an image. Images then keep their own shape, and their size up to this, and are
    packed end to end in a batch; vrwkv models only. null: all are brought to squares of image_size."""
    patch_size: int | None = None
    """Pixels on each side of a patch."""
    embed_dim: int | None = None
    """Channels of a token."""
    depth: int | None = None
    """Number of blocks."""
    num_heads: int | None = None
    """Heads of the mixer, where it has heads."""
    mlp_ratio: float | None = None
    """Hidden width of the channel mix over embed_dim."""
    drop_rate: float = 0.0
    """Dropout before the classifier."""
    drop_path_rate: float = 0.0
    """Share of residual branches dropped in the last block during training; earlier ones less."""
    options: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Further arguments of the model's constructor by name: 'model.options={global_pool: max, init_values: 0.1}'."""
    trainable: Literal["all", "head"] = "all"
    """all: train every parameter; head: keep the backbone as it is and train the classifier only."""

    def __post_init__(self) -> None:
        check_architecture(self.architecture, "model.architecture")
        for name in (
            "num_classes",
            "image_size",
            "max_tokens",
            "patch_size",
            "embed_dim",
            "depth",
            "num_heads",
            "mlp_ratio",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"model.{name} must be positive, got {value}")
        for name in ("drop_rate", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"model.{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.num_classes == 1:
            raise InputError("model.num_classes must be at least 2, got 1")


@dataclass
class LossConfig:
    """What the classifier is trained to minimise."""

    name: Literal["cross_entropy", "bce"] = "cross_entropy"
    """cross_entropy: one class an image; bce: a yes or no for every class (binary cross-entropy)."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    bce_sum_classes: bool = False
    """bce: sum over the classes in place of the mean."""
    bce_target_threshold: float | None = None
    """bce: mixed targets above this count as 1, all others as 0. null: mixed targets as they are."""
    mixup: float = 0.0
    """Mixup: parameter of the Beta distribution that shares of two images are drawn from; 0: off."""
    cutmix: float = 0.0
    """CutMix: the same for a rectangle out of another image; 0: off."""
    mix_probability: float = 1.0
    """Probability that a batch (an image, by mix_mode) is mixed at all."""
    mix_switch_probability: float = 0.5
    """Probability of CutMix rather than Mixup where both are on."""
    mix_mode: Literal["batch", "pair", "elem"] = "batch"
    """Draw the shares once for a batch, for each pair of images, or for each image."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"loss.label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"loss.{name} must not be negative, got {getattr(self, name)}")
        for name in ("mix_probability", "mix_switch_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"loss.{name} is a probability between 0 and 1, got {getattr(self, name)}")
        if self.name != "bce" and (self.bce_sum_classes or self.bce_target_threshold is not None):
            raise InputError("loss.bce_sum_classes and loss.bce_target_threshold belong to loss.name=bce")
        if self.bce_target_threshold is not None and not 0 <= self.bce_target_threshold < 1:
            raise InputError(f"loss.bce_target_threshold must lie in [0, 1), got {self.bce_target_threshold}")

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)


@dataclass
class DistillationConfig:
    """Learn from the answers of a frozen teacher, too."""

    teacher: str
    """Name of the teacher's architecture: any classifier of timm or of this toolkit with the same classes, such as
    vrwkv_base_patch16_224. Where distillation.checkpoint is a run of ours, that run's model is taken, whatever stands
    here."""
    checkpoint: str = ""
    """The teacher's weights: a file or a run folder. Empty: timm's pretrained ones, fetched from the Hugging Face
    hub."""
    kind: Literal["soft", "hard"] = "soft"
    """soft: match the teacher's probabilities; hard: take its best class for the truth."""
    alpha: float = 0.5
    """Weight of the teacher's part of the loss; the labels' part weighs 1 - alpha."""
    temperature: float = 1.0
    """soft: both sides' logits are divided by this before the softmax."""
    image_size: int | None = None
    """Pixels on each side of the teacher's images; null: the student's."""

    def __post_init__(self) -> None:
        check_architecture(self.teacher, "distillation.teacher")
        if not 0 < self.alpha <= 1:
            raise InputError(f"distillation.alpha must lie in (0, 1], got {self.alpha}")
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"distillation.temperature must be positive, got {self.temperature}")
        if self.image_size is not None and self.image_size < 1:
            raise InputError(f"distillation.image_size must be positive, got {self.image_size}")


@dataclass
class ClassifierDataConfig(TrainingDataConfig):
    """Training data and how it is fed."""

    repeats: int = 1
    """Repeated augmentation: an epoch shows a repeats-th of the images, each so many times, differently varied."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """How training images are varied."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repeats < 1:
            raise InputError(f"data.repeats must be at least 1, got {self.repeats}")


@dataclass
class ClassifierEvaluationConfig:
    """What is measured during training and at its end."""

    data: LabelledDataConfig | None = None
    """Labelled images with the classes of the training data; null: no evaluation."""
    batch_size: int = 256
    """Images classified at once."""
    resolutions: tuple[int, ...] = ()
    """Image sizes at which accuracy is measured at the end, such as [112, 160, 224, 384]; a plot goes to report/."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"evaluate.batch_size must be at least 1, got {self.batch_size}")
        if any(size < 1 for size in self.resolutions):
            raise InputError(f"evaluate.resolutions must be positive, got {list(self.resolutions)}")
        if self.resolutions and self.data is None:
            raise InputError("evaluate.resolutions needs images: set evaluate.data")


@dataclass
class ClassifierConfig:
    """Supervised training of an image classifier."""

    run: RunConfig
    """Where the run lives and how it starts."""
    model: ClassifierModelConfig = field(default_factory=ClassifierModelConfig)
    """The classifier."""
    data: ClassifierDataConfig = field(default_factory=ClassifierDataConfig)
    """Training data and how it is fed."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What is minimised, Mixup and CutMix included."""
    distillation: DistillationConfig | None = None
    """A teacher to learn from; null: none."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long to train, how exactly, and what to keep."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser and which parameters decay."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate over the run."""
    evaluate: ClassifierEvaluationConfig = field(default_factory=ClassifierEvaluationConfig)
    """What is measured."""


def check_architecture(name: str, key: str) -> None:
    """Raise an InputError that names the nearest model unless `timm.create_model` knows `name`."""
    if not timm.is_model(name):
        near = [
            *get_close_matches(name, registry.__all__, 1, 0.6),
            *get_close_matches(name, timm.list_models(), 1, 0.0),
        ]
        raise InputError(f"{key} {name!r} is no model of timm or of this toolkit; did you mean {near[0]!r}?")
