"""Writes scenes as data sets: ADE20K's folders of images and class maps, and COCO's images and annotation file."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vrwkv.data.digit_scenes import Scene
from vrwkv.errors import InputError

CANVAS = 1
"""Value of a class map where no digit is: ADE20K counts its classes from 1, and 0 means unlabelled."""


def class_map(scene: Scene) -> np.ndarray:
    """(H, W) uint8 in ADE20K's values: 1 is the canvas, 2 the digit zero, 11 the digit nine."""
    values = np.full(scene.image.shape[:2], CANVAS, dtype=np.uint8)
    for mask, label in zip(scene.masks, scene.labels, strict=True):
        values[mask] = CANVAS + 1 + label
    return values


def write_ade20k(folder: Path, training: Sequence[Scene], validation: Sequence[Scene]) -> None:
    """Write `images/{training,validation}/*.jpg` and `annotations/{training,validation}/*.png`.

    The folder appears when everything is in it.

    Raises:
        InputError: the folder is there already.
    """
    with _NewFolder(folder) as temporary:
        for split, scenes in (("training", training), ("validation", validation)):
            images, maps = temporary / "images" / split, temporary / "annotations" / split
            images.mkdir(parents=True)
            maps.mkdir(parents=True)
            for index, scene in enumerate(scenes):
                Image.fromarray(scene.image).save(images / f"scene_{index:05d}.jpg", quality=95)
                Image.fromarray(class_map(scene)).save(maps / f"scene_{index:05d}.png")


def write_coco(
    folder: Path, training: Sequence[Scene], validation: Sequence[Scene], class_names: Sequence[str]
) -> None:
    """Write `{train2017,val2017}/*.jpg` and `annotations/instances_{train2017,val2017}.json`, masks as run lengths.

    Category ids count from 1 in the order of `class_names`. The folder appears when everything is in it.

    Raises:
        InputError: the folder is there already.
    """
    with _NewFolder(folder) as temporary:
        (temporary / "annotations").mkdir(parents=True)
        for split, scenes in (("train2017", training), ("val2017", validation)):
            (temporary / split).mkdir()
            content: dict[str, list[dict[str, Any]]] = {
                "images": [],
                "annotations": [],
                "categories": [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)],
            }
            for index, scene in enumerate(scenes):
                name = f"{index:012d}.jpg"
                Image.fromarray(scene.image).save(temporary / split / name, quality=95)
                height, width = scene.image.shape[:2]
                content["images"].append({"id": index, "file_name": name, "height": height, "width": width})
                for mask, label, box in zip(scene.masks, scene.labels, scene.boxes, strict=True):
                    content["annotations"].append(
                        {
                            "id": len(content["annotations"]) + 1,
                            "image_id": index,
                            "category_id": int(label) + 1,
                            "bbox": [int(box[0]), int(box[1]), int(box[2] - box[0]), int(box[3] - box[1])],
                            "area": int(mask.sum()),
                            "iscrowd": 0,
                            "segmentation": {"size": [height, width], "counts": run_lengths(mask)},
                        }
                    )
            (temporary / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of a (H, W) mask, column by column, beginning with what is not the object."""
    flat = np.asarray(mask, dtype=bool).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    return np.diff(edges, prepend=0, append=flat.size).tolist()


class _NewFolder:
    """Context that gives a temporary neighbour of a folder and renames it when the context ends well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        self._check_free()
        self.temporary.mkdir(parents=True)
        return self.temporary

    def _check_free(self) -> None:
        if self.folder.exists():
            raise InputError(f"{self.folder} is there already: name another folder or remove it")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._check_free()
                os.replace(self.temporary, self.folder)
        finally:
            shutil.rmtree(self.temporary, ignore_errors=True)
