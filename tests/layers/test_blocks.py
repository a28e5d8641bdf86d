"""The blocks against their formulas, written out once more with nothing but loops and torch's basic functions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrwkv.layers import Block, ChannelMix, SpatialMix, SpatialMix6, TokenShift

GRID = (2, 3)


def randomised(module: nn.Module) -> nn.Module:
    """Float64 with every parameter moved away from its starting value."""
    torch.manual_seed(1)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def tokens(dim: int = 16, batch: int = 2) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(batch, GRID[0] * GRID[1], dim, dtype=torch.float64)


def shifted(x: Tensor, num_heads: int = 1, gamma: float = 0.25, distance: int = 1) -> Tensor:
    """Left, right, upper and lower neighbour for the four groups of each head's channels, one token at a time."""
    result, (height, width) = torch.zeros_like(x), GRID
    head_dim = x.shape[2] // num_heads
    for channel in range(x.shape[2]):
        group = next((j for j in range(4) if channel % head_dim < int(head_dim * gamma * (j + 1))), 4)
        down, right = [(0, -distance), (0, distance), (-distance, 0), (distance, 0), (0, 0)][group]
        for row in range(height):
            for column in range(width):
                if 0 <= row + down < height and 0 <= column + right < width:
                    source = (row + down) * width + column + right
                    result[:, row * width + column, channel] = x[:, source, channel]
    return result


def bi_wkv(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor) -> Tensor:
    count = k.shape[1]
    position = torch.arange(count, dtype=k.dtype)
    distance = (position[:, None] - position).abs()[..., None]
    weight = torch.exp(-decay / count * (distance - 1))
    weight = torch.where(distance == 0, torch.exp(bonus / count), weight)[None] * torch.exp(k)[:, None]
    return (weight * v[:, None]).sum(2) / weight.sum(2)


def bi_wkv6(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    y, decay = torch.zeros_like(v), torch.exp(-torch.exp(w))
    for t in range(v.shape[1]):
        for s in range(v.shape[1]):
            weight = decay[:, min(s, t) + 1 : max(s, t)].prod(1) if s != t else u.expand_as(k[:, t])
            y[:, t] += (r[:, t] * weight * k[:, s]).sum(-1, keepdim=True) * v[:, s]
    return y


@pytest.mark.parametrize("gamma", [0.25, 0.2, 0.0])
@pytest.mark.parametrize("key_norm", [False, True])
def test_spatial_mix(key_norm: bool, gamma: float) -> None:
    mix, x = randomised(SpatialMix(16, layer=1, depth=3, key_norm=key_norm, channel_gamma=gamma)), tokens()
    neighbours = shifted(x, gamma=gamma)
    x_k, x_v, x_r = (x * share + neighbours * (1 - share) for share in (mix.mix_k, mix.mix_v, mix.mix_r))
    y = bi_wkv(mix.decay, mix.bonus, x_k @ mix.key.weight.T, x_v @ mix.value.weight.T)
    y = F.layer_norm(y, (16,), mix.key_norm.weight, mix.key_norm.bias) if key_norm else y
    expected = (torch.sigmoid(x_r @ mix.receptance.weight.T) * y) @ mix.output.weight.T
    torch.testing.assert_close(mix(x, GRID), expected)


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("key_norm", [False, True])
def test_spatial_mix6(key_norm: bool, num_heads: int) -> None:
    mix, x = randomised(SpatialMix6(16, num_heads, layer=1, depth=3, key_norm=key_norm)), tokens()
    difference = shifted(x, num_heads) - x
    low_rank = torch.tanh((x + difference * mix.mix_x) @ mix.mix_down).chunk(5, dim=-1)
    shares = (mix.mix_w, mix.mix_k, mix.mix_v, mix.mix_r, mix.mix_g)
    x_w, x_k, x_v, x_r, x_g = (
        x + difference * (share + part @ up) for share, part, up in zip(shares, low_rank, mix.mix_up, strict=True)
    )
    w = mix.decay + torch.tanh(x_w @ mix.decay_down) @ mix.decay_up
    r, k, v = x_r @ mix.receptance.weight.T, x_k @ mix.key.weight.T, x_v @ mix.value.weight.T
    y = bi_wkv6(*(part.unflatten(2, (num_heads, -1)) for part in (r, k, v, w)), mix.bonus).flatten(2)
    y = F.layer_norm(y, (16,), mix.key_norm.weight, mix.key_norm.bias) if key_norm else y
    heads = y.unflatten(2, (num_heads, -1))
    heads = (heads - heads.mean(-1, keepdim=True)) / torch.sqrt(heads.var(-1, correction=0, keepdim=True) + 1e-5)
    y = heads.flatten(2) * mix.head_norm.weight + mix.head_norm.bias
    expected = (y * F.silu(x_g @ mix.gate.weight.T)) @ mix.output.weight.T
    torch.testing.assert_close(mix(x, GRID), expected)


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("key_norm", [False, True])
def test_channel_mix(key_norm: bool, num_heads: int) -> None:
    mix, x = randomised(ChannelMix(16, 40, num_heads=num_heads, key_norm=key_norm)), tokens()
    neighbours = shifted(x, num_heads)
    x_k, x_r = (x * share + neighbours * (1 - share) for share in (mix.mix_k, mix.mix_r))
    hidden = torch.relu(x_k @ mix.key.weight.T) ** 2
    hidden = F.layer_norm(hidden, (40,), mix.key_norm.weight, mix.key_norm.bias) if key_norm else hidden
    expected = torch.sigmoid(x_r @ mix.receptance.weight.T) * (hidden @ mix.value.weight.T)
    torch.testing.assert_close(mix(x, GRID), expected)


@pytest.mark.parametrize("mixer", ["bi_wkv", "bi_wkv6"])
@pytest.mark.parametrize("init_values", [None, 0.5])
@pytest.mark.parametrize("post_norm", [False, True])
def test_block_normalises_inside_the_residual(post_norm: bool, init_values: float | None, mixer: str) -> None:
    block, x = randomised(Block(16, mixer=mixer, post_norm=post_norm, init_values=init_values)), tokens()
    scale1, scale2 = (block.ls1.gamma, block.ls2.gamma) if init_values is not None else (1.0, 1.0)
    if post_norm:
        middle = x + scale1 * block.norm1(block.spatial_mix(x, GRID))
        expected = middle + scale2 * block.norm2(block.channel_mix(middle, GRID))
    else:
        middle = x + scale1 * block.spatial_mix(block.norm1(x), GRID)
        expected = middle + scale2 * block.channel_mix(block.norm2(middle), GRID)
    torch.testing.assert_close(block(x, GRID), expected)


def test_layer_scale_starts_at_its_value() -> None:
    block = Block(16, init_values=0.25)
    assert block.ls1.gamma.eq(0.25).all()
    assert block.ls2.gamma.eq(0.25).all()


@pytest.mark.parametrize("mixer", ["bi_wkv", "bi_wkv6"])
def test_without_a_shift_tokens_see_themselves(mixer: str) -> None:
    block = Block(16, mixer=mixer, shift_pixel=0)
    assert not hasattr(block.channel_mix, "mix_k")
    assert hasattr(block.spatial_mix, "mix_k") == (mixer == "bi_wkv6")
    bare = randomised(block)
    still = randomised(Block(16, mixer=mixer, channel_gamma=0.0))
    still.load_state_dict(bare.state_dict(), strict=False)
    torch.testing.assert_close(bare(tokens(), GRID), still(tokens(), GRID))


def test_shift_of_two() -> None:
    shift = TokenShift(2, shift_pixel=2, channel_gamma=0.25)
    torch.testing.assert_close(shift(tokens(), GRID), shifted(tokens(), 2, distance=2))
    assert "shift_pixel=2" in repr(shift)


def test_tokens_after_the_grid_are_not_shifted() -> None:
    x = torch.cat([tokens(), torch.full((2, 1, 16), 7.0, dtype=torch.float64)], dim=1)
    moved = TokenShift(2)(x, GRID)
    assert torch.equal(moved[:, -1:], x[:, -1:])
    assert torch.equal(moved[:, :-1], TokenShift(2)(x[:, :-1], GRID))


def test_hidden_width_of_a_ratio_of_integers() -> None:
    assert Block(88, mlp_ratio=392 / 88).channel_mix.key.weight.shape == (392, 88)
    assert Block(192, mlp_ratio=2.67).channel_mix.key.weight.shape == (512, 192)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixer": "attention"}, "mixer must be one of"),
        ({"num_heads": 2}, "num_heads must be left out"),
        ({"mixer": "bi_wkv6", "num_heads": 3}, "num_heads must divide dim 16, not 3"),
        ({"mixer": "bi_wkv6", "formula": "published"}, "formula 'paper' and init_mode 'fancy' only"),
        ({"mixer": "bi_wkv6", "init_mode": "local"}, "formula 'paper' and init_mode 'fancy' only"),
        ({"formula": "folklore"}, "formula must be one of"),
    ],
)
def test_contradictions_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Block(16, **arguments)


@pytest.mark.parametrize("backend", ["naive", "torch"])
@pytest.mark.parametrize("mixer", ["bi_wkv", "bi_wkv6"])
def test_backend_is_handed_down(mixer: str, backend: str) -> None:
    block, x = randomised(Block(16, mixer=mixer)), tokens()
    expected = block(x, GRID)
    block.spatial_mix.backend = backend
    torch.testing.assert_close(block(x, GRID), expected)
    with pytest.raises(ValueError, match="abacus"):
        Block(16, mixer=mixer, backend="abacus").double()(x, GRID)
