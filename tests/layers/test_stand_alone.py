"""The mixers and blocks by themselves, as layers of other people's models."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vrwkv.layers import Block, ChannelMix, SpatialMix, SpatialMix6

GRID = (3, 5)
LAYERS = {
    "spatial_mix": lambda **options: SpatialMix(32, **options),
    "spatial_mix6": lambda **options: SpatialMix6(32, **options),
    "channel_mix": lambda **options: ChannelMix(32, **options),
    "block": lambda **options: Block(32, **options),
    "block6": lambda **options: Block(32, mixer="bi_wkv6", **options),
}

every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
every_mix = pytest.mark.parametrize("make", [LAYERS[name] for name in list(LAYERS)[:3]], ids=list(LAYERS)[:3])


def tokens(count: int = 15) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, count, 32)


@every_layer
def test_a_layer_needs_its_width_only(make) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    layer = make()
    for grid in (GRID, (1, 1), (1, 15), (4, 1)):
        y = layer(tokens(grid[0] * grid[1]), grid)
        assert y.shape == (2, grid[0] * grid[1], 32)
        assert y.isfinite().all()
    layer(tokens(), GRID).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert make(device="meta")(tokens().to("meta"), GRID).is_meta
    assert make(dtype=torch.bfloat16)(tokens().bfloat16(), GRID).dtype == torch.bfloat16


@every_layer
def test_tokens_after_the_grid_take_part(make) -> None:  # type: ignore[no-untyped-def]
    assert make()(tokens(17), GRID).shape == (2, 17, 32)


@every_mix
@pytest.mark.parametrize("shift_pixel", [0, 1])
def test_a_mix_takes_the_norm_before_it(make, shift_pixel: int) -> None:  # type: ignore[no-untyped-def]
    mix, x = make(shift_pixel=shift_pixel).double(), tokens().double()
    weight, bias = 1 + 0.1 * torch.randn(2, 32, dtype=torch.float64)
    expected = mix(F.layer_norm(x, (32,), weight, bias, 1e-3), GRID)
    torch.testing.assert_close(mix(x, GRID, weight, bias, 1e-3), expected)


@every_layer
def test_a_layer_inside_another_model(make) -> None:  # type: ignore[no-untyped-def]
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 32, 4, 4)
            self.layer = make()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            grid = (x.shape[2], x.shape[3])
            return self.layer(x.flatten(2).transpose(1, 2), grid).transpose(1, 2).unflatten(2, grid)

    torch.manual_seed(0)
    model, x = Other().eval(), torch.randn(2, 3, 12, 20)
    expected = model(x)
    assert expected.shape == (2, 32, 3, 5)
    with pytest.warns(Warning, match=r"torch\.jit\.script"):
        scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), expected)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
