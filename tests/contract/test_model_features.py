"""Feature maps and intermediate tokens of every registered image model, as timm's users take them."""

import pytest
import torch
from models_under_test import WIDTHS, build, every_model, images, patch_of
from torch import nn


@every_model
def test_features_only(name: str) -> None:
    x, patch = images(name, 1, 40, 100), patch_of(name)
    extractor = build(name, features_only=True, out_indices=(0, 1))
    assert extractor.feature_info.channels() == [WIDTHS[name]] * 2
    assert extractor.feature_info.reduction() == [patch] * 2
    maps = extractor(x)
    assert [feature.shape for feature in maps] == [(1, WIDTHS[name], -(-40 // patch), -(-100 // patch))] * 2
    torch.testing.assert_close(maps, extractor.model.forward_intermediates(x, [0, 1], intermediates_only=True))


@every_model
def test_forward_intermediates(name: str) -> None:
    model, x = build(name), images(name, 2, 70, 40)
    tokens = model.forward_features(x)
    final, maps = model.forward_intermediates(x, norm=True)
    torch.testing.assert_close(final, tokens)
    assert len(maps) == 2
    torch.testing.assert_close(maps[1].flatten(2).transpose(1, 2), tokens)
    sequences = model.forward_intermediates(x, [0], output_fmt="NLC", intermediates_only=True)
    raw = model.forward_intermediates(x, [0], intermediates_only=True)
    torch.testing.assert_close(raw[0].flatten(2).transpose(1, 2), sequences[0])
    torch.testing.assert_close(model.norm(sequences[0]), maps[0].flatten(2).transpose(1, 2))
    as_dict = model.forward_intermediates(x, 1, norm=True, output_dict=True)
    torch.testing.assert_close(as_dict["image_intermediates"], [maps[1]])
    torch.testing.assert_close(as_dict["image_features"], tokens)
    with pytest.raises(ValueError, match="output_fmt must be"):
        model.forward_intermediates(x, output_fmt="NHWC")
    with pytest.raises(AssertionError):
        model.forward_intermediates(x, [2])


@every_model
def test_stop_early_runs_no_later_block(name: str) -> None:
    model, x = build(name), images(name)
    expected = model.forward_intermediates(x, [-2], intermediates_only=True)
    model.blocks[1].forward = None
    torch.testing.assert_close(model.forward_intermediates(x, [-2], intermediates_only=True, stop_early=True), expected)
    torch.testing.assert_close(list(model.forward_maps(x, 0)), expected)


@every_model
def test_forward_maps_follow_the_published_rule(name: str) -> None:
    model, x = build(name), images(name, 2, 40, 90)
    raw = model.forward_intermediates(x, intermediates_only=True)
    normalised = model.forward_intermediates(x, norm=True, intermediates_only=True)
    assert not torch.allclose(raw[1], normalised[1], atol=1e-3)
    for indices in ([0, 1], (0, 1), [-1, 0], [-2, -1]):
        first, last = model.forward_maps(x, indices)
        torch.testing.assert_close(first, raw[0])
        torch.testing.assert_close(last, normalised[1])
    torch.testing.assert_close(model.forward_maps(x), (normalised[1],))
    torch.testing.assert_close(model.forward_maps(x, 0), (raw[0],))
    for indices in (2, [0, 5], [-3], []):
        with pytest.raises(ValueError, match="out_indices must lie between -2 and 1"):
            model.forward_maps(x, indices)


@every_model
def test_prune_intermediate_layers(name: str) -> None:
    model, x = build(name), images(name)
    expected = model.forward_intermediates(x, [0], intermediates_only=True)
    assert model.prune_intermediate_layers([0], prune_norm=True) == [0]
    assert len(model.blocks) == 1
    assert isinstance(model.norm, nn.Identity)
    assert isinstance(model.head, nn.Identity)
    torch.testing.assert_close(model.forward_intermediates(x, [0], intermediates_only=True), expected)
    torch.testing.assert_close(model(x), expected[0].flatten(2).transpose(1, 2))
