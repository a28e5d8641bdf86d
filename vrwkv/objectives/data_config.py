"""What every objective on labelled images can be told about its training data; each adds its own augmentation."""

from dataclasses import dataclass, field

from vrwkv.data.labelled import LabelledDataConfig
from vrwkv.errors import InputError


@dataclass
class TrainingDataConfig:
    """Training data and how it is fed."""

    train: LabelledDataConfig = field(default_factory=LabelledDataConfig)
    """Where the training images come from."""
    batch_size: int = 256
    """Images per step over all processes."""
    num_workers: int = 0
    """Processes that decode images beside each training process; 0 decodes in the training process itself."""
    max_corrupt_fraction: float = 0.01
    """Share of unreadable images to skip; more is an error. In a set of fewer than 100, any is an error by default."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise InputError(f"data.{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.max_corrupt_fraction <= 1:
            raise InputError(f"data.max_corrupt_fraction must lie between 0 and 1, got {self.max_corrupt_fraction}")
