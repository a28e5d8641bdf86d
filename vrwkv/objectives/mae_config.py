"""Everything that masked pretraining can be told; the file `config.yaml` of a run folder is this."""

from dataclasses import dataclass, field
from difflib import get_close_matches

from vrwkv.data.augmentation import AugmentationConfig
from vrwkv.data.labelled import LabelledDataConfig
from vrwkv.errors import InputError
from vrwkv.models import registry
from vrwkv.objectives.data_config import TrainingDataConfig
from vrwkv.training.config import OptimConfig, RunConfig, ScheduleConfig, TrainConfig


@dataclass
class EncoderConfig:
    """The backbone that is pretrained. Fields left null keep the architecture's own values."""

    architecture: str = "vrwkv_base_patch16_224"
    """A Vision-RWKV of this toolkit: vrwkv_tiny_patch16_224, vrwkv6_small_patch16_224, ..."""
    checkpoint: str = ""
    """Weights to start from, in place of fresh ones: a run folder, a .safetensors file, or a published .pth."""
    image_size: int | None = None
    """Pixels on each side that images are brought to; a multiple of the patch size."""
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
    drop_path_rate: float = 0.0
    """Share of residual branches dropped in the last block during training; earlier ones less."""
    options: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Further arguments of the model's constructor by name: 'model.options={key_norm: true}'. Fine-tuning needs the
    same."""

    def __post_init__(self) -> None:
        if self.architecture not in registry.__all__:
            near = get_close_matches(self.architecture, registry.__all__, 1, 0.0)[0]
            raise InputError(
                f"model.architecture {self.architecture!r} is no Vision-RWKV of this toolkit; did you mean {near!r}?"
            )
        for name in ("image_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"model.{name} must be positive, got {value}")
        if not 0 <= self.drop_path_rate < 1:
            raise InputError(f"model.drop_path_rate must lie in [0, 1), got {self.drop_path_rate}")


@dataclass
class MaskConfig:
    """What is hidden, and what paints it. The defaults are MAE's."""

    ratio: float = 0.75
    """Share of the patches that the encoder does not see."""
    normalise_pixels: bool = True
    """Compare each patch with its pixels normalised by their own mean and deviation (MAE's norm_pix_loss)."""
    decoder_dim: int = 512
    """Channels of the decoder, a multiple of 4."""
    decoder_depth: int = 8
    """Number of the decoder's blocks."""

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise InputError(f"mask.ratio must lie in (0, 1), got {self.ratio}")
        if self.decoder_dim < 4 or self.decoder_dim % 4:
            raise InputError(f"mask.decoder_dim must be a positive multiple of 4, got {self.decoder_dim}")
        if self.decoder_depth < 1:
            raise InputError(f"mask.decoder_depth must be at least 1, got {self.decoder_depth}")


@dataclass
class MaeDataConfig(TrainingDataConfig):
    """Training data and how it is fed; labels are not looked at."""

    augmentation: AugmentationConfig = field(default_factory=lambda: AugmentationConfig(scale=(0.2, 1.0)))
    """How training images are varied. The default is MAE's: random crops and mirroring, no colour changes."""


@dataclass
class MaeEvaluationConfig:
    """What is measured during training and at its end."""

    data: LabelledDataConfig | None = None
    """Images whose hidden patches are painted and compared, the same patches every time; null: none."""
    batch_size: int = 256
    """Images at once."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"evaluate.batch_size must be at least 1, got {self.batch_size}")


@dataclass
class MaeConfig:
    """Masked pretraining of a backbone (MAE)."""

    run: RunConfig
    """Where the run lives and how it starts."""
    model: EncoderConfig = field(default_factory=EncoderConfig)
    """The backbone."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """What is hidden, and the decoder."""
    data: MaeDataConfig = field(default_factory=MaeDataConfig)
    """Training data and how it is fed."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long to train, how exactly, and what to keep."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(betas=(0.9, 0.95)))
    """The optimiser and which parameters decay."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate over the run."""
    evaluate: MaeEvaluationConfig = field(default_factory=MaeEvaluationConfig)
    """What is measured."""
