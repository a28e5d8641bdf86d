"""Cosines between patches, and which patch a click means."""

import numpy as np
import pytest
import torch
from PIL import Image

import vrwkv
from vrwkv.visualize import (
    draw_token_similarity,
    features_without_gradient,
    patch_at_pixel,
    patch_features,
    token_similarity,
)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_cosine_by_its_definition(scale: float) -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 4, 7)
    found = token_similarity(features * scale, (2, 1))
    expected = torch.cosine_similarity(features.double(), features[2, 1].double(), dim=-1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    assert found[2, 1] == 1
    opposite = features.clone()
    opposite[0, 0] = -3 * features[2, 1]
    assert token_similarity(opposite, (2, 1))[0, 0] == -1


def test_features_of_zero_are_like_none() -> None:
    features = torch.ones(2, 2, 3)
    features[0, 1] = 0
    assert token_similarity(features, (0, 0)).tolist() == [[1, 0], [1, 1]]
    assert token_similarity(features, (0, 1)).tolist() == [[0, 0], [0, 0]]


def test_hostile_input_is_refused() -> None:
    with pytest.raises(vrwkv.InputError, match=r"row -1.*rows 0 to 1"):
        token_similarity(torch.ones(2, 2, 3), (-1, 0))
    with pytest.raises(vrwkv.InputError, match="not finite"):
        token_similarity(torch.full((2, 2, 3), torch.nan), (0, 0))


def test_a_click_means_the_patch_under_it() -> None:
    size = (16, 8)  # height, width
    assert patch_at_pixel(0, 0, size) == (0, 0)
    assert patch_at_pixel(-0.5, -0.5, size) == (0, 0)  # the corner of the picture
    assert patch_at_pixel(7.4, 15.4, size) == (0, 0)
    assert patch_at_pixel(7.6, 15.6, size) == (1, 1)
    assert patch_at_pixel(100, 40, size) == (2, 12)
    assert patch_at_pixel(-3, 0, size)[1] == -1  # left of it, so that the grid refuses it


@pytest.mark.parametrize("name", ["vrwkv_tiny_patch16_224", "vrwkv6_tiny_patch16_224", "vit_tiny_patch16_224"])
def test_features_are_those_of_the_block(name: str) -> None:
    torch.manual_seed(0)
    options = {} if name.startswith("vit") else {"embed_dim": 48}
    model = vrwkv.visualize.build_backbone(name, {"depth": 3, "img_size": 64, **options})
    images = torch.randn(2, 3, 48, 80)
    tokens = model.forward_features(images)[:, model.num_prefix_tokens :]
    last = patch_features(model, images)
    assert last.shape[:3] == (2, 3, 5)
    torch.testing.assert_close(last.flatten(1, 2), tokens)
    raw = patch_features(model, images, norm=False)
    torch.testing.assert_close(model.norm(raw), last)
    # Inner blocks are never normalised, and both ways of counting mean the same.
    torch.testing.assert_close(patch_features(model, images, 1), patch_features(model, images, -2, norm=False))
    assert not features_without_gradient(model, images).requires_grad
    with pytest.raises(vrwkv.InputError, match="blocks 0 to 2"):
        patch_features(model, images, 3)


def test_the_drawing_marks_the_patch_and_shares_one_scale() -> None:
    pictures = [Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8))] * 2
    maps = [torch.rand(2, 3), torch.rand(2, 3)]
    figure = draw_token_similarity(pictures, {"untrained": maps, "trained": maps}, (1, 2), (16, 16))
    panels = figure.axes[:6]
    # Patches that reach beyond the picture are cut off with it.
    assert {panel.get_xlim() for panel in panels} == {(-0.5, 39.5)}
    assert {panel.get_ylim() for panel in panels} == {(29.5, -0.5)}
    assert all(panel.patches[0].get_xy() == (31.5, 15.5) for panel in panels)
    assert len({panel.images[0].get_clim() for panel in (*panels[1:3], *panels[4:6])}) == 1
    figure.canvas.draw()
