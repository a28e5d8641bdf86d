"""Decays that are known, and those that a model computes from the image."""

import math

import pytest
import timm
import torch

import vrwkv
from vrwkv.ops.bi_wkv.naive import bi_wkv_naive
from vrwkv.visualize import DecayMap, decay_distance, decay_map, draw_decay_maps


def test_distances_of_known_rates() -> None:
    rates = torch.tensor([math.log(2), math.log(2) / 50, 0.0, -math.log(2) / 10])
    torch.testing.assert_close(decay_distance(rates), torch.tensor([1, 50, math.inf, -10], dtype=torch.float64))
    torch.testing.assert_close(decay_distance(torch.tensor(0.25), 1 / math.e), torch.tensor(4.0, dtype=torch.float64))
    for remaining in (0.0, 1.0, math.nan):
        with pytest.raises(vrwkv.InputError, match="between 0 and 1"):
            decay_distance(rates, remaining)


def test_decays_are_divided_by_the_tokens_of_the_image() -> None:
    model = vrwkv.VisionRWKV(img_size=32, patch_size=8, embed_dim=4, depth=2, num_classes=0)
    with torch.no_grad():
        model.blocks[0].spatial_mix.decay.copy_(torch.tensor([-3.0, 0.0, 1.5, 30.0]))
    found = decay_map(model, torch.zeros(1, 3, 20, 37))  # 3 × 5 patches, the last ones begun only
    assert found.grid == (3, 5)
    torch.testing.assert_close(found.rates[0], torch.tensor([-0.2, 0, 0.1, 2], dtype=torch.float64))
    assert found.growing[0] == 0.25
    assert found.distances()[0, 2] == pytest.approx(math.log(2) / 0.1)


def test_the_distance_is_that_at_which_the_mixer_halves_its_weights() -> None:
    decay, tokens = torch.tensor([3.0], dtype=torch.float64), 64
    half = decay_distance(decay / tokens).round().int().item()  # 14.8: whole tokens come within their rounding
    value = torch.zeros(3, tokens, 1, dtype=torch.float64)
    for row, source in enumerate((0, 1, 1 + half)):
        value[row, source] = 1
    # All weights of a target have the same denominator, so outputs compare as weights do.
    weight = bi_wkv_naive(decay, torch.zeros(1), torch.zeros_like(value), value)[:, 0, 0]
    assert weight[2] / weight[1] == pytest.approx(0.5 ** (half / decay_distance(decay / tokens).item()))
    assert weight[2] / weight[1] == pytest.approx(0.5, abs=0.01)


def test_data_dependent_decays_are_averaged_over_the_image() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vrwkv6_tiny_patch16_224", img_size=48, embed_dim=48, depth=2, num_heads=3, num_classes=0)
    mixes = [block.spatial_mix for block in model.blocks]
    for mix in mixes:
        torch.nn.init.normal_(mix.decay_down, std=0.5)
        torch.nn.init.normal_(mix.decay_up, std=0.5)
    images = torch.randn(2, 3, 48, 64)
    model.train()
    found = decay_map(model, images)
    assert found.grid == (3, 4)
    assert model.training
    assert not any("_decays" in vars(mix) for mix in mixes)

    # The mixture that the decays of the first block come from, by the layer's definition.
    mix, x = mixes[0], model.blocks[0].norm1(model._embed(images)[0])
    shifted = mix.token_shift(x, (3, 4))
    first = x + (shifted - x) * mix.mix_x
    low = torch.tanh(first @ mix.mix_down).unflatten(-1, (5, -1))[:, :, 0]
    mixed = x + (shifted - x) * (mix.mix_w + low @ mix.mix_up[0])
    w = mix.decay + torch.tanh(mixed @ mix.decay_down) @ mix.decay_up
    torch.testing.assert_close(found.rates[0], w.double().exp().mean((0, 1)), rtol=1e-4, atol=0)
    assert (w.std((0, 1)) > 0.1).all()  # they do depend on the image
    assert found.growing.sum() == 0


def test_a_vision_transformer_has_none() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1)
    with pytest.raises(vrwkv.InputError, match="no blocks with Bi-WKV"):
        decay_map(model, torch.zeros(1, 3, 224, 224))


@pytest.mark.parametrize("rates", [[[-0.1, 0.0, 0.02, 0.7]], [[0.1, 0.2, 3.0, math.inf]], [[0.5, 0.5, 0.5, 0.5]]])
def test_maps_are_sorted_and_drawn_on_one_scale(rates: list[list[float]]) -> None:
    maps = {name: DecayMap(torch.tensor(rates * 2, dtype=torch.float64), (4, 5)) for name in ("before", "after")}
    figure = draw_decay_maps(maps)
    images = [axes.images[0] for axes in figure.axes if axes.get_title(loc="left") in maps]
    assert len(images) == 2
    shown = images[0].get_array()
    assert shown is not None
    assert (shown[:, :-1] >= shown[:, 1:]).all()
    assert images[0].get_clim() == images[1].get_clim()
    labels = [label.get_text() for label in figure.axes[-1].get_yticklabels()]
    assert any(label.startswith("halves") for label in labels)
    assert any(label.startswith(("doubles", "stays")) for label in labels) == (rates[0][0] < 0)
    figure.canvas.draw()
