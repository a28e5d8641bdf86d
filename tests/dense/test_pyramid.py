"""The simple feature pyramid: sizes, values, gradients."""

import pytest
import torch
import torch.nn.functional as F

from vrwkv.dense.pyramid import SimpleFeaturePyramid


@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (1, 1)])
def test_four_maps_of_four_strides(grid: tuple[int, int]) -> None:
    height, width = grid
    x = torch.randn(2, 16, height, width, requires_grad=True)
    maps = SimpleFeaturePyramid(16)(x)
    sizes = [(4 * height, 4 * width), (2 * height, 2 * width), grid, (-(-height // 2), -(-width // 2))]
    assert [tuple(each.shape) for each in maps] == [
        (2, channels, *size) for channels, size in zip((4, 8, 16, 16), sizes, strict=True)
    ]
    sum(each.square().sum() for each in maps).backward()
    assert x.grad is not None
    assert x.grad.abs().amin() > 0


def test_values_are_those_of_the_paper() -> None:
    """ViTDet: two transposed convolutions with a layer norm and a GELU between them, one, none, max pooling."""
    pyramid = SimpleFeaturePyramid(8).double()
    first, norm, _, second = pyramid.finest
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    quarter, half, same, double = pyramid(x)
    hidden = F.conv_transpose2d(x, first.weight, first.bias, stride=2)
    hidden = F.layer_norm(hidden.permute(0, 2, 3, 1), (4,), norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)
    torch.testing.assert_close(quarter, F.conv_transpose2d(F.gelu(hidden), second.weight, second.bias, stride=2))
    torch.testing.assert_close(half, F.conv_transpose2d(x, pyramid.finer.weight, pyramid.finer.bias, stride=2))
    assert torch.equal(same, x)
    assert torch.equal(double, x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)))


def test_channels_that_cannot_be_quartered_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4, not 6"):
        SimpleFeaturePyramid(6)
