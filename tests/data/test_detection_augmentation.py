"""Boxes and masks stay with what they belong to, however an image is varied."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import masks_to_boxes

from vrwkv.data.detection_augmentation import DetectionAugmentationConfig, DetectionTransform, collate_detection
from vrwkv.data.randomness import seeded_generators
from vrwkv.errors import InputError


def sample() -> dict:
    """A white and a gray rectangle on black, 40 × 60 pixels."""
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    masks = np.zeros((2, 40, 60), dtype=np.uint8)
    boxes = np.asarray([[4, 6, 20, 16], [30, 20, 55, 38]], dtype=np.float32)
    for mask, (left, top, right, bottom), level in zip(masks, boxes.astype(int), (255, 128), strict=True):
        pixels[top:bottom, left:right] = level
        mask[top:bottom, left:right] = 1
    return {"image": Image.fromarray(pixels), "boxes": boxes, "labels": np.asarray([3, 5]), "masks": masks, "index": 7}


def transformed(config: DetectionAugmentationConfig | None, seed: int) -> dict:
    with seeded_generators(np.random.SeedSequence(seed)) as generator:
        return DetectionTransform(config)(sample(), generator)


def test_without_augmentation_nothing_changes() -> None:
    output, source = transformed(None, 0), sample()
    assert torch.equal(output["image"], torch.tensor(np.asarray(source["image"])).permute(2, 0, 1) / 255)
    assert np.array_equal(output["boxes"], source["boxes"])
    assert np.array_equal(output["masks"], source["masks"])
    assert all(type(output[name]) is torch.Tensor for name in ("image", "boxes", "labels", "masks"))


def test_a_mirrored_image_has_mirrored_boxes() -> None:
    output = transformed(DetectionAugmentationConfig(horizontal_flip=1.0), 0)
    assert output["boxes"].tolist() == [[40, 6, 56, 16], [5, 20, 30, 38]]
    assert torch.equal(output["image"][0] > 0, output["masks"].sum(0) > 0)


@pytest.mark.parametrize("scale", [(0.4, 0.7), (1.5, 2.5)])
def test_jitter_keeps_size_boxes_and_masks_together(scale: tuple[float, float]) -> None:
    config = DetectionAugmentationConfig(horizontal_flip=0.5, scale_jitter=scale, color_jitter=0.2)
    found = 0
    for seed in range(20):
        output = transformed(config, seed)
        assert output["image"].shape == (3, 40, 60)
        assert len(output["boxes"]) == len(output["labels"]) == len(output["masks"])
        if len(output["boxes"]):
            assert torch.equal(output["boxes"], masks_to_boxes(output["masks"]) + torch.tensor([0.0, 0, 1, 1]))
            inside = output["masks"].amax(0).bool()
            assert output["image"][0][inside].mean() > output["image"][0][~inside].mean() + 0.2
        found += len(output["boxes"])
        again = transformed(config, seed)
        assert all(torch.equal(output[name], again[name]) for name in ("image", "boxes", "labels", "masks"))
    assert found == 40 if scale[1] < 1 else 10 < found < 40


def test_a_batch_is_lists() -> None:
    batch = collate_detection([transformed(None, 0), transformed(None, 1)])
    assert [each.shape for each in batch["image"]] == [(3, 40, 60)] * 2
    assert batch["index"].tolist() == [7, 7]


@pytest.mark.parametrize(
    "options", [{"horizontal_flip": 2.0}, {"scale_jitter": (2.0, 1.0)}, {"scale_jitter": (0.0, 1.0)}]
)
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        DetectionAugmentationConfig(**options)
