"""Patches come out as a convolution with the same stride would see them."""

import pytest
import torch

from vrwkv.ops import extract_patches


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("size", "patch"),
    [((32, 48), (16, 16)), ((64, 64), (32, 32)), ((12, 20), (4, 5)), ((16, 16), (16, 16)), ((8, 64), (4, 32))],
)
def test_equals_unfold(size: tuple[int, int], patch: tuple[int, int], dtype: torch.dtype) -> None:
    images = torch.randn(2, 3, *size).to(dtype)
    for given in (images, images.to(memory_format=torch.channels_last)):
        expected = torch.nn.functional.unfold(given.float(), patch, stride=patch).transpose(1, 2).to(dtype)
        assert torch.equal(extract_patches(given, patch), expected)


def test_gradient_reaches_the_pixels() -> None:
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    patches = extract_patches(images, (16, 16))
    (grad,) = torch.autograd.grad(patches, images, torch.ones_like(patches))
    assert torch.equal(grad, torch.ones_like(images))
