import math

import numpy as np
import pytest
import torch
from PIL import Image

from vrwkv.data.augmentation import AugmentationConfig, ImageFormat, evaluation_preprocess, training_preprocess
from vrwkv.data.native_resolution import FitSequence, collate_images
from vrwkv.data.randomness import seeded_generators

PLAIN = ImageFormat(64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), max_tokens=20, patch_size=(8, 16))


def drawn(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def patches(image: torch.Tensor) -> int:
    return math.ceil(image.shape[1] / 8) * math.ceil(image.shape[2] / 16)


@pytest.mark.parametrize("size", [(16, 8), (64, 40), (50, 33), (17, 70), (320, 8)])
def test_an_image_within_the_limit_stays_as_it_is(size: tuple[int, int]) -> None:
    image = drawn(*size)
    seen = evaluation_preprocess(PLAIN)(image)
    assert torch.equal((seen * 255).round().byte().permute(1, 2, 0), torch.from_numpy(np.array(image)))


@pytest.mark.parametrize("size", [(65, 41), (400, 300), (90, 200), (200, 90)])
def test_a_larger_image_shrinks_in_its_own_shape(size: tuple[int, int]) -> None:
    seen = evaluation_preprocess(PLAIN)(drawn(*size))
    height, width = seen.shape[1:]
    assert 10 <= patches(seen) <= 20
    assert height % 8 == width % 16 == 0
    scale = min(1.0, math.sqrt(20 * 128 / (size[0] * size[1])))
    assert abs(height - size[1] * scale) <= 8 + 0.25 * height
    assert abs(width - size[0] * scale) <= 16 + 0.25 * width


@pytest.mark.parametrize("size", [(30, 2000), (2000, 30), (336, 8), (1, 500)])
def test_a_thin_image_keeps_a_patch_across(size: tuple[int, int]) -> None:
    seen = evaluation_preprocess(PLAIN)(drawn(*size))
    assert min(seen.shape[1] // 8, seen.shape[2] // 16) == 1
    assert patches(seen) <= 20


def test_an_image_smaller_than_a_patch_becomes_one() -> None:
    assert evaluation_preprocess(PLAIN)(drawn(5, 3)).shape == (3, 8, 16)
    assert FitSequence((8, 8), 4, "bicubic")(drawn(3, 8)).size == (8, 8)


def test_another_size_asked_for_means_squares() -> None:
    assert evaluation_preprocess(PLAIN, 24)(drawn(100, 50)).shape == (3, 24, 24)


def test_training_crops_are_never_enlarged_and_vary() -> None:
    transform = training_preprocess(PLAIN, AugmentationConfig(scale=(0.3, 1.0), auto_augment="rand-m5-mstd0.5-inc1"))
    shapes = set()
    for seed in range(40):
        with seeded_generators(np.random.SeedSequence(seed)):
            small, large = transform(drawn(40, 20)), transform(drawn(400, 200))
        assert small.shape[1] <= 24
        assert small.shape[2] <= 48
        assert patches(large) <= 20
        shapes.add(tuple(large.shape))
    assert len(shapes) > 1


def test_a_batch_keeps_images_apart() -> None:
    samples = [{"image": torch.zeros(3, 8, width), "label": width, "index": 0} for width in (16, 20, 16)]
    batch = collate_images(20)(samples)
    assert [image.shape[2] for image in batch["image"]] == [16, 20, 16]
    assert batch["label"].tolist() == [16, 20, 16]
    equal = [samples[0], samples[2]]
    assert isinstance(collate_images(20)(equal)["image"], list)
    assert collate_images(None)(equal)["image"].shape == (2, 3, 8, 16)
