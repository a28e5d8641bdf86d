"""What the user can say about labelled images, and the source it describes. A field's docstring is its help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vrwkv.data.digits import DigitsSource
from vrwkv.data.folder import FolderSource
from vrwkv.data.font_characters import FontCharactersSource
from vrwkv.data.huggingface import HuggingFaceSource
from vrwkv.data.labelled_shards import LabelledShardSource
from vrwkv.data.source import LabelledSource
from vrwkv.data.split import split_indices
from vrwkv.data.subset import LabelledSubset
from vrwkv.data.torchvision_source import TorchvisionSource
from vrwkv.errors import InputError

# Which options belong to which kinds; elsewhere they are refused rather than ignored.
_OPTIONS = {
    "path": ("folder", "shards", "torchvision", "huggingface"),
    "name": ("torchvision",),
    "part": ("torchvision", "huggingface"),
    "image_column": ("huggingface",),
    "label_column": ("shards", "huggingface"),
    "class_names": ("shards",),
    "download": ("torchvision",),
}


@dataclass
class LabelledDataConfig:
    """Where labelled images come from."""

    kind: Literal["folder", "shards", "torchvision", "huggingface", "digits", "fonts"] = "folder"
    """folder: one sub-folder of images for each class; shards: webdataset tar files with .cls or .json members;
    torchvision: a data set of torchvision; huggingface: a data set written by save_to_disk; digits: the handwritten
    digits that come with scikit-learn; fonts: digits and capital letters drawn from the fonts that come with
    matplotlib."""
    path: str = ""
    """The folder, the shards (e.g. data/train-{0000..0127}.tar or data/*.tar), or where the data set lies on disk."""
    split: Literal["all", "train", "held_out"] = "all"
    """Use all images, or the fixed four fifths of each class for training, or the fifth that is held out;
    fonts: 16 fonts for training, 6 of other families held out."""
    name: str = ""
    """torchvision: the data set's class, e.g. CIFAR10."""
    part: str = ""
    """torchvision, huggingface: the data set's own split, e.g. train, test or val; empty for its default."""
    image_column: str = ""
    """huggingface: the column with the images; empty for image, img or picture."""
    label_column: str = ""
    """huggingface: the column with the class numbers; shards: the field of .json. Empty for the usual names."""
    class_names: str = ""
    """shards: text file with the name of class 0, 1, ... on a line each; empty for the numbers themselves."""
    download: bool = False
    """torchvision: fetch the files if they are not in `path` yet."""

    def describe(self) -> str:
        """A few words that say which data a number was measured on."""
        words = [self.path or self.kind, self.name, self.part]
        if self.split != "all":
            words.append(f"({self.split.replace('_', ' ')})")
        return " ".join(word for word in words if word)


def build_labelled_source(config: LabelledDataConfig, num_classes: int | None = None) -> LabelledSource:
    """The labelled images that `config` describes.

    Args:
        config: which images.
        num_classes: number of classes, where it is known; spares shards without names a look at every label.

    Raises:
        InputError: an option that is missing or does not belong to the kind, or data that cannot be read.
    """
    _check_options(config)
    if config.kind == "folder":
        return FolderSource(config.path, config.split)
    if config.kind == "digits":
        return DigitsSource(config.split)
    if config.kind == "fonts":
        return FontCharactersSource(config.split)
    source: LabelledSource
    if config.kind == "shards":
        names = [str(label) for label in range(num_classes)] if num_classes else None
        names = _read_names(config.class_names) if config.class_names else names
        source = LabelledShardSource(config.path, config.label_column or None, names)
    elif config.kind == "torchvision":
        source = TorchvisionSource(config.name, config.path, config.part, config.download)
    else:
        source = HuggingFaceSource(config.path, config.part, config.image_column, config.label_column)
    if config.split == "all":
        return source
    return LabelledSubset(source, split_indices(source.labels, config.split))


def _check_options(config: LabelledDataConfig) -> None:
    for option, kinds in _OPTIONS.items():
        value = getattr(config, option)
        if value and config.kind not in kinds:
            raise InputError(f"{option} belongs to kind={' or '.join(kinds)}, but kind={config.kind}")
    needed = {"folder": "path", "shards": "path", "huggingface": "path", "torchvision": "name"}.get(config.kind)
    if needed is not None and not getattr(config, needed):
        raise InputError(f"kind={config.kind} needs a {needed}, but {needed} is empty")


def _read_names(file: str) -> list[str]:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"file of class names {file} cannot be read: {reason}") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f"file of class names {file} is empty: write the name of each class on a line of its own")
    return names
