"""Any classification data set of torchvision as a labelled source."""

import difflib
import inspect
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from vrwkv.data.source import CorruptSample, to_rgb
from vrwkv.errors import InputError

# Where torchvision's classes keep the labels that need no image to be decoded.
_LABEL_ATTRIBUTES = ("targets", "labels", "_labels", "_targets", "y")


class TorchvisionSource:
    """The samples of `torchvision.datasets.NAME` that answer (image, class number).

    Args:
        name: class in `torchvision.datasets`, e.g. "CIFAR10", "Food101", "FakeData".
        folder: where the data set lies, or is downloaded to.
        part: the data set's own split: "train", "test", "val", …; empty for its default.
        download: fetch the files if they are missing.

    Raises:
        InputError: no such data set or part, missing files, or a data set without one class number per image.
    """

    def __init__(self, name: str, folder: str | os.PathLike[str], part: str = "", download: bool = False) -> None:
        self._name = name
        self._dataset = _open(name, folder, part, download)
        if not len(self._dataset):
            raise InputError(f"torchvision data set {name} in {folder} is empty")
        _check_sample(name, self._dataset[0])

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A dict with "image", "label" and "name"."""
        name = f"{self._name} {index}"
        try:
            image, label = self._dataset[index]
        except MemoryError:
            raise
        except Exception as error:  # decoders raise almost anything on damaged bytes
            raise CorruptSample(name, f"cannot be read ({error or type(error).__name__})") from error
        return {"image": to_rgb(image), "label": int(label), "name": name}

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64; read from the images' own records where the data set lists no labels."""
        for attribute in _LABEL_ATTRIBUTES:
            found = getattr(self._dataset, attribute, None)
            if isinstance(found, Sequence | np.ndarray) or hasattr(found, "tolist"):
                values = np.asarray(found)
                if values.shape == (len(self),) and np.issubdtype(values.dtype, np.integer):
                    return values.astype(np.int64)
        return np.fromiter((int(self._dataset[index][1]) for index in range(len(self))), np.int64, len(self))

    @cached_property
    def class_names(self) -> list[str]:
        """The data set's own names, or "0", "1", … up to the largest label."""
        names = getattr(self._dataset, "classes", None)
        if isinstance(names, list | tuple) and names:
            # ImageNet gives several names to a class.
            return [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]
        return [str(label) for label in range(int(self.labels.max()) + 1)]


def _open(name: str, folder: str | os.PathLike[str], part: str, download: bool) -> Any:
    from torchvision import datasets

    known = list(datasets.__all__)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"torchvision has no data set {name!r}{hint}")
    constructor = getattr(datasets, name)
    parameters = inspect.signature(constructor).parameters
    options: dict[str, Any] = {"root": os.fspath(folder)} if "root" in parameters else {}
    if "download" in parameters:
        options["download"] = download
    if part:
        options.update(_part_option(name, part, parameters))
    try:
        return constructor(**options)
    except ImportError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"torchvision data set {name} in {folder} cannot be opened: {reason}") from None


def _part_option(name: str, part: str, parameters: Any) -> dict[str, Any]:
    """`split="val"`, `train=True` or `image_set="train"`, whichever the data set has."""
    for option in ("split", "image_set"):
        if option in parameters:
            return {option: part}
    if "train" in parameters:
        if part not in ("train", "test"):
            raise InputError(f"torchvision data set {name} has the parts 'train' and 'test', not {part!r}")
        return {"train": part == "train"}
    raise InputError(f"torchvision data set {name} has no parts to choose from, but part is {part!r}")


def _check_sample(name: str, sample: Any) -> None:
    fits = isinstance(sample, tuple) and len(sample) == 2 and isinstance(sample[0], Image.Image)
    if not fits or not isinstance(sample[1], int | np.integer):
        raise InputError(f"torchvision data set {name} does not give one image and one class number a sample")
