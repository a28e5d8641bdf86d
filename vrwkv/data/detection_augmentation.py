"""How images with boxes become tensors, and how training varies them: torchvision's transforms, version 2."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from vrwkv.errors import InputError


@dataclass
class DetectionAugmentationConfig:
    """How training images are varied; several sizes stand in model.min_size. The default is that of the 1× recipe."""

    horizontal_flip: float = 0.5
    """Probability of mirroring the image; wrong for data with text or digits in it."""
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest factor on the image's content, which is then cropped or padded to the image's size."""
    color_jitter: float = 0.0
    """Strength of random changes of brightness, contrast and saturation."""

    def __post_init__(self) -> None:
        if not 0 <= self.horizontal_flip <= 1:
            raise InputError(f"horizontal_flip is a probability between 0 and 1, got {self.horizontal_flip}")
        low, high = self.scale_jitter
        if not 0 < low <= high < math.inf:
            raise InputError(f"scale_jitter must be two positive numbers in ascending order, got {[low, high]}")
        if not 0 <= self.color_jitter <= 1:
            raise InputError(f"color_jitter must lie between 0 and 1, got {self.color_jitter}")


class DetectionTransform:
    """A sample of a `CocoSource` as tensors for torchvision's detectors.

    "image" (3, H, W) float32 in [0, 1]; "boxes" (N, 4) float32, left, top, right, bottom; "labels" (N,) int64; "masks"
    (N, H, W) uint8 where the sample has them; "index".

    Args:
        augmentation: None leaves the image as it is, for evaluation.
    """

    def __init__(self, augmentation: DetectionAugmentationConfig | None = None) -> None:
        self.scales = (1.0, 1.0) if augmentation is None else augmentation.scale_jitter
        steps: list[Any] = []
        if augmentation is not None and augmentation.horizontal_flip:
            steps.append(v2.RandomHorizontalFlip(augmentation.horizontal_flip))
        if augmentation is not None and augmentation.color_jitter:
            steps.append(v2.ColorJitter(*(augmentation.color_jitter,) * 3))
        self.steps = v2.Compose([*steps, v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)])

    def __call__(self, sample: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        """The sample as tensors; the global generators and `generator` decide how it is varied."""
        image = tv_tensors.Image(v2.functional.pil_to_tensor(sample["image"]))
        size = (image.shape[-2], image.shape[-1])
        content = {
            "image": image,
            "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(sample["boxes"]), format="XYXY", canvas_size=size),
            "labels": torch.from_numpy(sample["labels"]),
        }
        if "masks" in sample:
            content["masks"] = tv_tensors.Mask(torch.from_numpy(sample["masks"]))
        if self.scales != (1.0, 1.0):
            content = _rescaled(content, generator.uniform(*self.scales), size)
        content = self.steps(content)
        if self.scales != (1.0, 1.0):
            content = _without_lost_objects(content)
        tensors = {name: value.as_subclass(Tensor) for name, value in content.items()}
        return {**tensors, "index": sample["index"]}


def collate_detection(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch: lists of tensors, for images have sizes and numbers of objects of their own; "index" is stacked."""
    return {
        name: default_collate([sample[name] for sample in samples])
        if name == "index"
        else [sample[name] for sample in samples]
        for name in samples[0]
    }


def _rescaled(content: dict[str, Any], factor: float, size: tuple[int, int]) -> dict[str, Any]:
    """Everything resized by `factor`, then cropped at a random place, or padded at the right and bottom, to `size`."""
    scaled = [max(1, round(side * factor)) for side in size]
    resized = v2.Resize(scaled, antialias=True)(content)
    padding = [0, 0, max(0, size[1] - scaled[1]), max(0, size[0] - scaled[0])]
    padded = v2.Pad(padding)(resized) if any(padding) else resized
    return v2.RandomCrop(size)(padded)


def _without_lost_objects(content: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what the crop cut away, and fits boxes to what it left of their masks."""
    boxes = functional.clamp_bounding_boxes(content["boxes"]).as_subclass(Tensor)
    kept = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1)
    found = {"labels": content["labels"]}
    if "masks" in content:
        kept &= content["masks"].flatten(1).bool().any(dim=1)
        found["masks"] = content["masks"].as_subclass(Tensor)
    found = {name: value[kept] for name, value in found.items()}
    boxes = boxes[kept]
    if "masks" in found and len(boxes):
        boxes = masks_to_boxes(found["masks"]) + boxes.new_tensor([0, 0, 1, 1])
    return {**content, **found, "boxes": boxes}
