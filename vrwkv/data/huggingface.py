"""A Hugging Face data set on disk, as `save_to_disk` writes it, as a labelled source."""

import difflib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vrwkv.data.source import CorruptSample, open_image
from vrwkv.errors import InputError

_IMAGE_COLUMNS = ("image", "img", "picture")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class")


class HuggingFaceSource:
    """Rows of a saved data set, with a column of images and a column of class numbers.

    Args:
        folder: what `save_to_disk` wrote, for one data set or for a dictionary of them.
        part: entry of the dictionary ("train", "test", …); empty where there is only one data set.
        image_column, label_column: the columns; empty for the usual names (image, img, …; label, labels, …).

    Raises:
        InputError: the datasets package is missing, there is no saved data set, or no such part or column.
    """

    def __init__(
        self, folder: str | os.PathLike[str], part: str = "", image_column: str = "", label_column: str = ""
    ) -> None:
        self._name = f"{folder} {part}".strip()
        dataset = _part(_load(Path(folder)), part, self._name)
        if not len(dataset):
            raise InputError(f"data set {self._name} is empty")
        self._image = _column(dataset, image_column, _IMAGE_COLUMNS, "image_column", self._name)
        self._label = _column(dataset, label_column, _LABEL_COLUMNS, "label_column", self._name)
        self._names: list[str] | None = getattr(dataset.features[self._label], "names", None)
        self._dataset = _undecoded(dataset.select_columns([self._image, self._label]), self._image, self._name)
        first = self._dataset[0][self._label]
        if not isinstance(first, int) or isinstance(first, bool):
            raise InputError(
                f"column {self._label!r} of data set {self._name} (label_column) holds {first!r}, no class number"
            )

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A dict with "image", "label" and "name"."""
        name = f"{self._name} row {index}"
        row = self._dataset[index]
        label, image = row[self._label], row[self._image]
        if label is None or label < 0:
            raise CorruptSample(name, f"column {self._label!r} holds no class number")
        if image is None:
            raise CorruptSample(name, f"column {self._image!r} holds no image")
        return {"image": open_image(image["bytes"] or image["path"], name), "label": int(label), "name": name}

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64; an unlabelled row has -1."""
        column = self._dataset.select_columns([self._label])[:][self._label]
        return np.asarray([-1 if label is None else label for label in column], dtype=np.int64)

    @cached_property
    def class_names(self) -> list[str]:
        """The names in the data set's own description, or "0", "1", … up to the largest label."""
        return list(self._names) if self._names else [str(label) for label in range(int(self.labels.max()) + 1)]


def _load(folder: Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError("data sets of Hugging Face need a package: pip install datasets") from None
    if not folder.is_dir():
        raise InputError(f"data set folder {folder} does not exist")
    if not (folder / "dataset_dict.json").is_file() and not (folder / "state.json").is_file():
        raise InputError(f"{folder} is no saved data set: write one with datasets' save_to_disk('{folder}')")
    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # Arrow has exceptions of its own for damaged files
        raise InputError(f"data set {folder} cannot be read: {' '.join(str(error).split())}") from None


def _part(loaded: Any, part: str, name: str) -> Any:
    if not isinstance(loaded, dict):
        if part:
            raise InputError(f"data set {name} is a single one: leave part={part} out")
        return loaded
    if part in loaded:
        return loaded[part]
    if not part and len(loaded) == 1:
        return next(iter(loaded.values()))
    raise InputError(f"data set {name} has the parts {', '.join(loaded)}: set part to one of them")


def _column(dataset: Any, wanted: str, usual: Sequence[str], option: str, name: str) -> str:
    columns = list(dataset.column_names)
    if wanted:
        if wanted in columns:
            return wanted
        near = difflib.get_close_matches(wanted, columns, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f", only {', '.join(columns)}"
        raise InputError(f"data set {name} has no column {wanted!r} ({option}){hint}")
    found = [column for column in usual if column in columns]
    if not found:
        raise InputError(f"data set {name} has the columns {', '.join(columns)}: set {option} to one of them")
    return found[0]


def _undecoded(dataset: Any, column: str, name: str) -> Any:
    """The data set with encoded images, so that our own decoder meets them and the damaged ones can be told apart."""
    import datasets

    if not isinstance(dataset.features[column], datasets.Image):
        kind = type(dataset.features[column]).__name__
        raise InputError(f"column {column!r} of data set {name} (image_column) holds no images but a {kind}")
    return dataset.cast_column(column, datasets.Image(decode=False)).with_format(None)
