"""What the user can say about data. The line beneath a field is its help text on the command line."""

from dataclasses import dataclass, field
from typing import Any, Literal

from vrwkv.errors import InputError


@dataclass
class SourceConfig:
    """Where images and captions come from."""

    kind: Literal["csv", "shards", "folder", "digits"] = "csv"
    """csv: a table of image files and captions; shards: webdataset tar files; folder: one sub-folder of images for each
    class; digits: the handwritten digits that come with scikit-learn."""

    path: str = ""
    """The .csv or .tsv file, the shards (e.g. data/train-{0000..0127}.tar or data/*.tar), or the image folder."""

    split: Literal["all", "train", "held_out"] = "all"
    """folder and digits: use all images, or the fixed four fifths for training, or the fifth that is held out."""

    image_column: str = "filepath"
    """csv: the column that holds the image's path; relative paths start at the folder of the file."""

    caption_column: str = "title"
    """csv: the column that holds the caption. shards: the field of .json to take captions from; while it is 'title',
    they come from .txt or, without one, from the first of the fields caption, title and text."""

    separator: str = ""
    """csv: the character between columns; empty means a tab for .tsv files and a comma for all others."""

    templates: tuple[str, ...] = ()
    """folder and digits: captions are made from class names with these templates, e.g. 'a photo of a {}.'; or the name
    of a set: digits, digits_evaluation, imagenet, simple. Empty means digits for digits and simple for folder."""

    shuffle_captions: bool = False
    """Control experiment: give every image the captions of another, so that there is nothing to learn."""

    def __post_init__(self) -> None:
        if isinstance(self.templates, str):
            self.templates = (self.templates,)


@dataclass
class AugmentationConfig:
    """How training images are varied. The defaults are open_clip's: a random crop and nothing else."""

    scale: tuple[float, float] = (0.9, 1.0)
    """Share of the image's area that a random crop keeps: smallest, largest. Published RWKV-CLIP: 0.7 1.0."""

    ratio: tuple[float, float] | None = None
    """Width over height of a random crop: smallest, largest; None means 0.75 1.33. Published RWKV-CLIP: 0.8 1.25."""

    color_jitter: float = 0.0
    """Strength of random changes of brightness, contrast and saturation; 0 for none."""

    random_erasing: float = 0.0
    """Probability of filling a random rectangle with noise."""

    horizontal_flip: float = 0.0
    """Probability of mirroring the image; wrong for data with text or digits in it. Published RWKV-CLIP: 0.5."""

    def __post_init__(self) -> None:
        _check_range("scale", self.scale, 1.0)
        if self.ratio is not None:
            _check_range("ratio", self.ratio, float("inf"))
        for name in ("random_erasing", "horizontal_flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"augmentation.{name} is a probability between 0 and 1, got {getattr(self, name)}")
        if self.color_jitter < 0:
            raise InputError(f"augmentation.color_jitter must not be negative, got {self.color_jitter}")

    def to_open_clip(self) -> dict[str, Any]:
        """The `aug_cfg` for open_clip's transforms (which have no flip, see `training_preprocess`)."""
        options: dict[str, Any] = {"scale": tuple(self.scale)}
        if self.ratio is not None:
            options["ratio"] = tuple(self.ratio)
        if self.color_jitter:
            options["color_jitter"] = self.color_jitter
        if self.random_erasing:
            options["re_prob"] = self.random_erasing
        # open_clip's own pipeline knows the scale only and ignores the rest with a warning; timm's knows them all.
        if len(options) > 1:
            options["use_timm"] = True
        return options


@dataclass
class DataConfig:
    """Training data and how it is fed."""

    train: SourceConfig = field(default_factory=SourceConfig)
    """Where the training pairs come from."""

    batch_size: int = 256
    """Pairs per step over all processes. Larger batches give the contrastive loss more to compare with."""

    num_workers: int = 0
    """Processes that decode images beside each training process; 0 decodes in the training process itself."""

    max_corrupt_fraction: float = 0.01
    """Share of unreadable samples to skip; more is an error. In a set of fewer than 100, any is an error by default."""

    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """How training images are varied."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"data.batch_size must be at least 1, got {self.batch_size}")
        if self.num_workers < 0:
            raise InputError(f"data.num_workers must not be negative, got {self.num_workers}")
        if not 0 <= self.max_corrupt_fraction <= 1:
            raise InputError(f"data.max_corrupt_fraction must lie between 0 and 1, got {self.max_corrupt_fraction}")


def _check_range(name: str, value: tuple[float, float], largest: float) -> None:
    if len(value) != 2 or not 0 < value[0] <= value[1] <= largest:
        limit = "" if largest == float("inf") else f", at most {largest:g}"
        raise InputError(f"augmentation.{name} must be two positive numbers in ascending order{limit}, got {value}")
