import numpy as np
import pytest
from PIL import Image
from timm.data.auto_augment import AugmentOp

from vrwkv.data.augmentation import AugmentationConfig, ImageFormat, training_preprocess
from vrwkv.data.posterize import _operations, allow_zero_bits
from vrwkv.data.randomness import seeded_generators

FORMAT = ImageFormat(16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# Policies of the published recipes among them, whose strength varies beyond the last bit.
POLICIES = ["rand-m9-mstd0.5-inc1", "rand-m10-inc1", "original", "v0r", "augmix-m10-w3"]


def drawn() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(1, 256, (20, 20, 3), dtype=np.uint8))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_operation_works_at_its_full_strength(policy: str) -> None:
    transform = training_preprocess(FORMAT, AugmentationConfig(auto_augment=policy))
    operations = list(_operations(transform))
    assert any("Posterize" in operation.name for operation in operations)
    for operation in operations:
        operation.magnitude, operation.magnitude_std, operation.prob = 10, 0, 1.0
        with seeded_generators(np.random.SeedSequence(0)):
            assert operation(drawn()).size == (20, 20)


def test_no_bits_are_black_and_others_as_before() -> None:
    for bits, name in ((0, "PosterizeIncreasing"), (4, "PosterizeOriginal")):
        operation = AugmentOp(name, prob=1.0, magnitude=10 if bits == 0 else 0)
        allow_zero_bits([operation])
        pixels = np.array(operation(drawn()))
        assert np.array_equal(pixels, np.array(drawn()) & (0xFF << (8 - bits) & 0xFF))
