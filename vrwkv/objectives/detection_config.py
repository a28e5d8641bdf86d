"""Everything that training a detector can be told; the file `config.yaml` of a run folder is this."""

from dataclasses import dataclass, field
from difflib import get_close_matches

from vrwkv.data.detection import DetectionSetConfig
from vrwkv.data.detection_augmentation import DetectionAugmentationConfig
from vrwkv.errors import InputError
from vrwkv.models import registry
from vrwkv.training.config import OptimConfig, RunConfig, ScheduleConfig, TrainConfig


@dataclass
class DetectorModelConfig:
    """The detector: Mask R-CNN over a Vision-RWKV. Fields left null keep the architecture's own values."""

    architecture: str = "vrwkv_tiny_patch16_224"
    """The backbone, a Vision-RWKV of this toolkit: vrwkv_tiny_patch16_224, vrwkv6_small_patch16_224, ..."""
    adapter: bool = True
    """true: the backbone with the ViT-Adapter; false: the plain one with a simple feature pyramid."""
    checkpoint: str = ""
    """Weights to start from: a classifier or pretrained backbone (a run folder, a .safetensors file, a published
    .pth), or a detector's run, of which heads for another number of classes are replaced."""
    image_size: int | None = None
    """Pixels on each side that positions are learnt for; others are interpolated."""
    patch_size: int | None = None
    """Pixels on each side of a patch; 16 with the adapter."""
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
    """Further arguments of the backbone's constructor, such as {init_values: 1.0, deform_num_heads: 12}."""
    masks: bool = True
    """true: Mask R-CNN, boxes and masks; false: Faster R-CNN, boxes only."""
    channels: int = 256
    """Channels of the feature pyramid network."""
    box_dim: int = 1024
    """Width of the two layers of the box head."""
    mask_channels: int = 256
    """Channels of the convolutions of the mask head."""
    min_size: tuple[int, ...] = (800,)
    """Pixels that the shorter side of an image is brought to. Of several, training draws one for each image;
    evaluation takes the last."""
    max_size: int = 1333
    """Limit in pixels for the longer side."""
    anchor_sizes: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    """Sides of the anchor boxes of the five levels, in pixels of the resized image."""
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Heights of the anchor boxes over their widths."""
    proposals: int = 1000
    """Regions of an image that the heads look at, at most."""
    sampled_anchors: int = 256
    """Anchors of an image that the proposals' losses are taken over."""
    sampled_regions: int = 512
    """Regions of an image that the heads' losses are taken over."""
    score_threshold: float = 0.05
    """Detections with a lower score are dropped."""
    detections: int = 100
    """Detections of an image, at most."""

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
        for name in ("drop_path_rate", "score_threshold"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"model.{name} must lie in [0, 1), got {getattr(self, name)}")
        for name in ("min_size", "anchor_sizes", "aspect_ratios"):
            if not getattr(self, name) or any(value <= 0 for value in getattr(self, name)):
                raise InputError(f"model.{name} must be positive numbers, got {list(getattr(self, name))}")
        for name in (
            *("channels", "box_dim", "mask_channels", "max_size"),
            *("proposals", "sampled_anchors", "sampled_regions", "detections"),
        ):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if self.max_size < max(self.min_size):
            raise InputError(f"model.max_size {self.max_size} must not be below model.min_size {max(self.min_size)}")


@dataclass
class DetectionDataConfig:
    """Training data and how it is fed."""

    train: DetectionSetConfig = field(default_factory=DetectionSetConfig)
    """Where the training images come from."""
    keep_empty: bool = False
    """Train on images without any object, too."""
    batch_size: int = 16
    """Images per step over all processes."""
    num_workers: int = 0
    """Processes that decode images beside each training process; 0 decodes in the training process itself."""
    max_corrupt_fraction: float = 0.01
    """Share of unreadable images to skip; more is an error. In a set of fewer than 100, any is an error by default."""
    augmentation: DetectionAugmentationConfig = field(default_factory=DetectionAugmentationConfig)
    """How training images are varied."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise InputError(f"data.{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.max_corrupt_fraction <= 1:
            raise InputError(f"data.max_corrupt_fraction must lie between 0 and 1, got {self.max_corrupt_fraction}")


@dataclass
class DetectorEvaluationConfig:
    """What is measured during training and at its end."""

    data: DetectionSetConfig | None = None
    """Images with the classes of the training data; null: no evaluation."""
    batch_size: int = 8
    """Images at once."""
    pictures: int = 8
    """Images that predictions are drawn over, in report/predictions.png."""
    picture_threshold: float = 0.5
    """Score from which a prediction is drawn."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"evaluate.batch_size must be at least 1, got {self.batch_size}")
        if self.pictures < 0:
            raise InputError(f"evaluate.pictures must not be negative, got {self.pictures}")
        if not 0 <= self.picture_threshold <= 1:
            raise InputError(f"evaluate.picture_threshold must lie between 0 and 1, got {self.picture_threshold}")


@dataclass
class DetectorConfig:
    """Training of a detector on boxes and masks."""

    run: RunConfig
    """Where the run lives and how it starts."""
    model: DetectorModelConfig = field(default_factory=DetectorModelConfig)
    """The detector."""
    data: DetectionDataConfig = field(default_factory=DetectionDataConfig)
    """Training data and how it is fed."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long to train, how exactly, and what to keep."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser and which parameters decay."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate over the run."""
    evaluate: DetectorEvaluationConfig = field(default_factory=DetectorEvaluationConfig)
    """What is measured."""
