"""What the user can say about images with boxes, and the source it describes. A field's docstring is its help text."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from vrwkv.data.coco import CocoSource
from vrwkv.data.digit_scenes import DigitScenes
from vrwkv.data.digits import DIGIT_NAMES
from vrwkv.data.scene_files import write_coco
from vrwkv.errors import InputError

_FILE_OPTIONS = ("annotations", "images")
_FILES = {"train": "train2017", "held_out": "val2017"}


@dataclass
class DetectionSetConfig:
    """Where images with boxes come from."""

    kind: Literal["coco", "digit_scenes"] = "coco"
    """coco: a data set of your own in the COCO format; digit_scenes: scenes composed of the scanned digits that come
    with scikit-learn, drawn and written in the COCO format at first use."""
    annotations: str = ""
    """coco: the annotation file, such as coco/annotations/instances_train2017.json."""
    images: str = ""
    """coco: the folder of images, such as coco/train2017."""
    path: str = ""
    """digit_scenes: the folder of the data set; made if it is not there."""
    split: Literal["train", "held_out"] = "train"
    """digit_scenes: scenes of the training scans or of those that are held out."""
    scenes: int = 2000
    """digit_scenes: number of training scenes."""
    held_out_scenes: int = 200
    """digit_scenes: number of held-out scenes."""
    size: int = 128
    """digit_scenes: height and width of a scene in pixels."""

    def __post_init__(self) -> None:
        for field in fields(self)[1:]:
            kind = "coco" if field.name in _FILE_OPTIONS else "digit_scenes"
            if kind != self.kind and getattr(self, field.name) != field.default:
                raise InputError(f"{field.name} belongs to kind={kind}, but kind={self.kind}")
        for option in ("scenes", "held_out_scenes", "size"):
            if getattr(self, option) < 1:
                raise InputError(f"{option} must be positive, got {getattr(self, option)}")

    def describe(self) -> str:
        """A few words that say which data a number was measured on."""
        return self.annotations if self.kind == "coco" else f"{self.path} ({self.split.replace('_', ' ')})"


def draw_missing_scenes(config: DetectionSetConfig) -> None:
    """Write the data set of kind digit_scenes unless it is there; nothing for other kinds.

    Raises:
        InputError: no folder named, or sizes that `DigitScenes` refuses.
    """
    _check_complete(config)
    folder = Path(config.path)
    if config.kind != "digit_scenes" or folder.exists():
        return
    size = (config.size, config.size)
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_coco(
        folder,
        DigitScenes("train", config.scenes, size),
        DigitScenes("held_out", config.held_out_scenes, size),
        DIGIT_NAMES,
    )


def build_detection_source(config: DetectionSetConfig, *, masks: bool = True, keep_empty: bool = True) -> CocoSource:
    """The images that `config` describes, with their boxes.

    Args:
        config: which images.
        masks: read masks, too.
        keep_empty: False leaves out images without any object.

    Raises:
        InputError: an option that is missing, or data that cannot be read or is not what was asked for.
    """
    draw_missing_scenes(config)
    if config.kind == "coco":
        return CocoSource(config.annotations, config.images, masks=masks, keep_empty=keep_empty)
    name = _FILES[config.split]
    folder = Path(config.path)
    source = CocoSource(
        folder / "annotations" / f"instances_{name}.json", folder / name, masks=masks, keep_empty=keep_empty
    )
    _check_scenes(source, config)
    return source


def _check_complete(config: DetectionSetConfig) -> None:
    for option in _FILE_OPTIONS if config.kind == "coco" else ("path",):
        if not getattr(config, option):
            raise InputError(f"kind={config.kind} needs {option}, but {option} is empty")


def _check_scenes(source: CocoSource, config: DetectionSetConfig) -> None:
    """Refuse a folder that was drawn with other options."""
    option = "scenes" if config.split == "train" else "held_out_scenes"
    wanted = getattr(config, option)
    if len(source) != wanted:
        raise InputError(
            f"{config.path} holds {len(source)} {config.split.replace('_', ' ')} scenes, but {option}={wanted}: "
            "remove the folder or name another"
        )
    if set(source.image_sizes) != {(config.size, config.size)}:
        raise InputError(f"{config.path} holds scenes of another size than {config.size}: remove it or name another")
