"""Decays, bonuses and mixes start where the released code puts them; spot values were read off the released modules."""

import math

import pytest
import torch
from torch import Tensor, nn

from vrwkv.layers import Block, ChannelMix, SpatialMix, SpatialMix6

DIM, DEPTH = 192, 12


def assert_values(tensor: Tensor, values: dict[int, float]) -> None:
    flat = tensor.detach().flatten()
    for index, value in values.items():
        assert flat[index].item() == pytest.approx(value, abs=6e-6), index


def test_bi_wkv_first_layer() -> None:
    mix = SpatialMix(DIM, layer=0, depth=DEPTH)
    assert_values(mix.decay, {0: -5, 95: -0.09348, 191: 3})
    assert_values(mix.bonus, {0: -1.20397, 1: -0.70397, 2: -1.70397})
    assert_values(mix.mix_k, {96: 0.5})
    assert_values(mix.mix_v, {191: 0.99479})
    assert_values(mix.mix_r, {96: 0.70711})


def test_bi_wkv_last_layer() -> None:
    mix = SpatialMix(DIM, layer=11, depth=DEPTH)
    assert_values(mix.decay, {0: -5, 95: -3.02089, 191: 3})
    assert_values(mix.mix_k, {96: 0.94387})
    assert_values(mix.mix_v, {191: 1.29956})
    assert_values(mix.mix_r, {96: 0.97153})


def test_bi_wkv6_first_and_last_layer() -> None:
    first, last = (SpatialMix6(DIM, layer=layer, depth=DEPTH) for layer in (0, 11))
    assert_values(first.decay, {0: -6, 95: -2.93343, 191: -1})
    assert_values(first.bonus, {0: 0, 1: 0.1})
    assert_values(last.decay, {0: -6, 95: -4.76305, 191: -1})
    assert_values(last.bonus, {0: 1, 1: 1.09476, DIM - 1: -0.1})
    assert last.bonus.shape == (3, 64)


@pytest.mark.parametrize("layer", [0, 5, 11])
@pytest.mark.parametrize(("dim", "heads"), [(192, 3), (640, 8)])
def test_bi_wkv6_formulas(dim: int, heads: int, layer: int) -> None:
    mix = SpatialMix6(dim, heads, layer=layer, depth=DEPTH)
    down, up = layer / (DEPTH - 1), 1 - layer / DEPTH
    for channel in (0, 1, dim // 3, dim - 1):
        share = (channel / dim) ** up
        for role in "xwk":
            assert_values(getattr(mix, f"mix_{role}"), {channel: 1 - share})
        assert_values(mix.mix_v, {channel: 1 - (share + 0.3 * down)})
        for role in "rg":
            assert_values(getattr(mix, f"mix_{role}"), {channel: 1 - share**0.5})
        assert_values(mix.decay, {channel: -6 + 5 * (channel / (dim - 1)) ** (0.7 + 1.3 * down)})
        assert_values(mix.bonus, {channel: down * (1 - channel / (dim - 1)) + 0.1 * ((channel + 1) % 3 - 1)})
    for low_rank in (mix.mix_down, mix.mix_up, mix.decay_down, mix.decay_up):
        assert 0.9e-4 < low_rank.abs().max() <= 1e-4
        assert abs(low_rank.mean()) < 1e-5
    assert mix.mix_down.shape == (dim, 160)
    assert mix.mix_up.shape == (5, 32, dim)
    assert mix.decay_down.shape == (dim, 64)
    assert mix.head_norm.weight.eq(1).all()
    assert mix.head_norm.eps == 1e-5


@pytest.mark.parametrize("layer", [0, 7])
def test_channel_mix(layer: int) -> None:
    mix = ChannelMix(DIM, layer=layer, depth=DEPTH)
    for channel in (0, 50, DIM - 1):
        assert_values(mix.mix_k, {channel: (channel / DIM) ** (1 - layer / DEPTH)})
    assert torch.equal(mix.mix_k, mix.mix_r)


@pytest.mark.parametrize(("init_mode", "decay", "share"), [("local", 1.0, 1.0), ("global", 0.0, 0.5)])
def test_other_init_modes(init_mode: str, decay: float, share: float) -> None:
    spatial, channel = (part(16, init_mode=init_mode) for part in (SpatialMix, ChannelMix))
    for parameter in (spatial.decay, spatial.bonus):
        assert parameter.eq(decay).all()
    for parameter in (spatial.mix_k, spatial.mix_v, spatial.mix_r, channel.mix_k, channel.mix_r):
        assert parameter.eq(share).all()


def test_unknown_init_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="init_mode must be one of"):
        SpatialMix(16, init_mode="fanciful")


@pytest.mark.parametrize("mixer", ["bi_wkv", "bi_wkv6"])
def test_a_single_layer_counts_as_the_first(mixer: str) -> None:
    torch.manual_seed(0)
    alone, first = (Block(64, mixer=mixer, layer=0, depth=depth).state_dict() for depth in (1, 12))
    for name in alone:
        if name.rpartition(".")[2] in ("decay", "bonus", "mix_k", "mix_v", "mix_r"):
            assert torch.equal(alone[name], first[name])
            assert alone[name].isfinite().all()


@pytest.mark.parametrize("part", [SpatialMix, SpatialMix6, ChannelMix])
def test_values_are_the_same_for_every_default_device_and_dtype(part: type[nn.Module]) -> None:
    plain = part(64, layer=3, depth=5)
    double = part(64, layer=3, depth=5, dtype=torch.float64)
    half = part(64, layer=3, depth=5, dtype=torch.bfloat16)
    with torch.device("meta"):
        nowhere = part(64, layer=3, depth=5)
    for name, parameter in plain.named_parameters():
        assert nowhere.get_parameter(name).is_meta
        assert nowhere.get_parameter(name).shape == parameter.shape
        if name.startswith(("decay", "bonus", "mix")) and not name.endswith(("up", "down")):
            assert torch.equal(double.get_parameter(name).float(), parameter)
            assert torch.equal(half.get_parameter(name), parameter.bfloat16())


def test_layer_norms_have_torchs_epsilon_and_start_neutral() -> None:
    for module in Block(32, key_norm=True).modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-5
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()


def test_bonus_steps_around_the_logarithm() -> None:
    bonus = SpatialMix(6).bonus
    torch.testing.assert_close(bonus, math.log(0.3) + 0.5 * torch.tensor([0.0, 1, -1, 0, 1, -1]))
