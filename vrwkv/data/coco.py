"""Images with boxes and masks in the COCO format: an annotation file and a folder of images."""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vrwkv.data.source import CorruptSample, open_image
from vrwkv.errors import InputError

_SMALLEST_BOX = 1.0
"""Pixels; boxes with a shorter side teach nothing and are left out."""
_POLYGON_NUMBERS = 6
"""Fewest coordinates of a polygon: three corners."""


class CocoSource:
    """Images of a COCO annotation file with their objects.

    A sample has "image", "name", "boxes" (N, 4) float32 as left, top, right, bottom, "labels" (N,) int64, which count
    the categories from 1 in the order of their ids, and, if asked for, "masks" (N, H, W) uint8. Crowds and boxes
    narrower than a pixel are not among the objects. `__getitem__` raises `CorruptSample` for an image that is missing,
    unreadable, or of another size than the annotations say.

    Args:
        annotations: the JSON file.
        images: the folder that its file names start from.
        masks: read masks (polygons or run lengths), too.
        keep_empty: False leaves out images without any object.

    Raises:
        InputError: no such file or folder, or content that is not COCO's.

    Attributes:
        with_masks: whether samples have "masks"; may be changed to False.
        class_names: of labels 1, 2, …
        category_ids: of labels 1, 2, …
        image_ids: of the samples.
        image_sizes: (height, width) of the samples, as annotated.
    """

    def __init__(
        self, annotations: str | Path, images: str | Path, *, masks: bool = True, keep_empty: bool = True
    ) -> None:
        self.file, self.folder, self.with_masks = Path(annotations), Path(images), masks
        if not self.folder.is_dir():
            raise InputError(f"image folder {self.folder} does not exist")
        content = _read(self.file)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        self.class_names = [str(category["name"]) for category in categories]
        self.category_ids = [category["id"] for category in categories]
        self._labels = {number: label for label, number in enumerate(self.category_ids, start=1)}
        self._objects = _objects_of_images(content, self._labels, self.file, masks)
        self._images = [image for image in content["images"] if keep_empty or self._objects[image["id"]]]
        if not self._images:
            raise InputError(f"{self.file} has no image" + ("" if keep_empty else " with an object in it"))
        self.image_ids = [image["id"] for image in self._images]
        self.image_sizes = [(image["height"], image["width"]) for image in self._images]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample at `index`, 0 <= index < len(self)."""
        entry = self._images[index]
        image = open_image(self.folder / entry["file_name"])
        size = (entry["height"], entry["width"])
        if (image.height, image.width) != size:
            raise CorruptSample(
                str(self.folder / entry["file_name"]),
                f"has {image.width}×{image.height} pixels, but {self.file.name} says {size[1]}×{size[0]}",
            )
        objects = self._objects[entry["id"]]
        sample = {
            "image": image,
            "name": entry["file_name"],
            "boxes": np.asarray([_edges(each, size) for each in objects], dtype=np.float32).reshape(-1, 4),
            "labels": np.asarray([self._labels[each["category_id"]] for each in objects], dtype=np.int64),
        }
        if self.with_masks:
            masks = [_mask(each["segmentation"], size) for each in objects]
            sample["masks"] = np.stack(masks) if masks else np.zeros((0, *size), dtype=np.uint8)
        return sample

    def ground_truth(self) -> Any:
        """pycocotools' `COCO` of the whole file, crowds included; masks are needed for comparing masks only."""
        from pycocotools.coco import COCO

        content = _read(self.file)
        # pycocotools asks for all of these, and takes an object with the id 0 for one that was not found.
        content["annotations"] = [
            {"area": each["bbox"][2] * each["bbox"][3], "iscrowd": 0, **each, "id": number}
            for number, each in enumerate(content["annotations"], start=1)
        ]
        truth = COCO()
        truth.dataset = {"info": {}, **content}
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
        return truth


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"annotation file {file} does not exist") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"annotation file {file} cannot be read: {reason}") from None
    keys = {
        "images": ("id", "file_name", "height", "width"),
        "annotations": ("image_id", "category_id", "bbox"),
        "categories": ("id", "name"),
    }
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise InputError(f"{file} is not in the COCO format: it needs lists named {', '.join(keys)}")
    for key, needed in keys.items():
        for position, entry in enumerate(content[key]):
            missing = [name for name in needed if not isinstance(entry, dict) or name not in entry]
            if missing:
                raise InputError(f"{file}: {key}[{position}] has no {missing[0]!r}")
    if not content["categories"]:
        raise InputError(f"{file} names no categories")
    for key in ("images", "categories"):
        if len({entry["id"] for entry in content[key]}) < len(content[key]):
            raise InputError(f"{file}: two {key} have the same id")
    return content


def _objects_of_images(
    content: Mapping[str, Any], labels: Mapping[int, int], file: Path, masks: bool
) -> dict[int, list[dict[str, Any]]]:
    """The annotations that training uses, by image id; every one is checked."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    objects: dict[int, list[dict[str, Any]]] = {number: [] for number in sizes}
    for position, each in enumerate(content["annotations"]):
        name = f"{file}: annotation {each.get('id', f'number {position}')}"
        if each["category_id"] not in labels:
            ids = f"{min(labels)} to {max(labels)}"
            raise InputError(f"{name} has category_id {each['category_id']}, which is none of the categories ({ids})")
        if each["image_id"] not in objects:
            raise InputError(f"{name} belongs to image {each['image_id']}, which the file does not have")
        box = each["bbox"]
        if not (isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)):
            raise InputError(f"{name} must have a bbox [left, top, width, height], not {box}")
        if each.get("iscrowd"):
            continue
        size = sizes[each["image_id"]]
        if masks:
            _check_segmentation(each, size, name)
        left, top, right, bottom = _edges(each, size)
        if min(right - left, bottom - top) >= _SMALLEST_BOX:
            objects[each["image_id"]].append(each)
    return objects


def _check_segmentation(annotation: Mapping[str, Any], size: tuple[int, int], name: str) -> None:
    segmentation = annotation.get("segmentation")
    if not segmentation:
        raise InputError(f"{name} has no segmentation: a detector of boxes needs none (model.masks=false)")
    if isinstance(segmentation, dict):
        if "counts" not in segmentation or list(segmentation.get("size", ())) != list(size):
            raise InputError(
                f"{name} has run lengths of a mask of size {segmentation.get('size')}, but its image is "
                f"{list(size)} (height, width)"
            )
    elif not all(isinstance(part, list) and len(part) >= _POLYGON_NUMBERS for part in segmentation):
        raise InputError(f"{name} must have polygons of three corners or more, [x, y, x, y, x, y, ...]")


def _edges(annotation: Mapping[str, Any], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom, within the image."""
    left, top, width, height = annotation["bbox"]
    right, bottom = min(left + width, size[1]), min(top + height, size[0])
    return max(left, 0), max(top, 0), right, bottom


def _mask(segmentation: dict[str, Any] | Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 of polygons, or of run lengths, plain or compressed."""
    from pycocotools import mask

    if isinstance(segmentation, dict):
        compressed = not isinstance(segmentation["counts"], list)
        encoded = segmentation if compressed else mask.frPyObjects(segmentation, *size)
    else:
        encoded = mask.merge(mask.frPyObjects(segmentation, *size))
    return mask.decode(encoded)
