"""A labelled image set in the common folder layout: one sub-folder per class."""

import difflib
import os
from pathlib import Path
from typing import Any

import numpy as np

from vrwkv.data.source import open_image
from vrwkv.data.split import split_indices
from vrwkv.data.strings import PackedStrings
from vrwkv.errors import InputError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class FolderSource:
    """Images at FOLDER/CLASS/…/file, classes and files in sorted order; the label is the position of the class.

    Hidden files and folders are passed over; symbolic links are followed.

    Args:
        folder: the folder that holds one sub-folder per class.
        split: "all", "train", or "held_out": a fixed fifth of every class.

    Raises:
        InputError: no such folder, no class in it, a class without images, or unknown split.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str = "all") -> None:
        self.folder = Path(folder)
        self.class_names = _class_names(self.folder)
        paths: list[str] = []
        labels: list[int] = []
        for label, class_name in enumerate(self.class_names):
            found = _images_below(self.folder, class_name)
            if not found:
                raise InputError(
                    f"class folder {self.folder / class_name} holds no image ({', '.join(IMAGE_EXTENSIONS)}): "
                    "add images or remove the folder"
                )
            paths.extend(found)
            labels.extend([label] * len(found))
        kept = split_indices(labels, split)
        self._paths = PackedStrings(paths[i] for i in kept)
        self.labels = np.asarray(labels, dtype=np.int64)[kept]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A dict with "image", "label" and "name" (the file's path within the folder)."""
        relative = self._paths[index]
        image = open_image(self.folder / relative, relative)
        return {"image": image, "label": int(self.labels[index]), "name": relative}


def _class_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        parent = folder.parent
        siblings = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
        near = difflib.get_close_matches(folder.name, siblings, n=1)
        hint = f"; did you mean {parent / near[0]}?" if near else ""
        what = "is a file, not a folder with one sub-folder per class" if folder.exists() else "does not exist"
        raise InputError(f"image folder {folder} {what}{hint}")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise InputError(
            f"image folder {folder} has no sub-folder: put the images of each class in a folder of its own"
        )
    return names


def _images_below(folder: Path, class_name: str) -> list[str]:
    found: list[str] = []
    for current, folders, files in os.walk(folder / class_name, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(current, folder)
        found.extend(
            os.path.join(below, name)
            for name in files
            if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")
        )
    return sorted(found)
