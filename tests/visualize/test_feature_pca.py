"""Principal components against numpy's SVD, whatever sign that comes out with."""

import numpy as np
import pytest
import torch
from PIL import Image

import vrwkv
from vrwkv.visualize import draw_feature_pca, feature_pca


def images(count: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    mixing = torch.randn(6, 6)
    return [torch.randn(3 + number, 4, 6) @ mixing + 5 for number in range(count)]


def test_components_are_those_of_numpy() -> None:
    features = images()
    found = feature_pca(features)
    matrix = np.concatenate([image.numpy().astype(np.float64).reshape(-1, 6) for image in features])
    centred = matrix - matrix.mean(0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    for component in range(3):
        direction = rows[component] * np.sign(rows[component][np.abs(rows[component]).argmax()])
        np.testing.assert_allclose(found.directions[component], direction, atol=1e-10)
        scores = torch.cat([image[..., component].flatten() for image in found.scores])
        np.testing.assert_allclose(scores, centred @ direction, atol=1e-9)
    np.testing.assert_allclose(found.explained, (singular**2 / (singular**2).sum())[:3], atol=1e-12)


def test_signs_do_not_depend_on_order_or_library(monkeypatch: pytest.MonkeyPatch) -> None:
    features = images()
    expected = feature_pca(features)
    reversed_order = feature_pca([features[1].flip(0, 1), features[0]])
    torch.testing.assert_close(reversed_order.directions, expected.directions)
    torch.testing.assert_close(reversed_order.scores[0].flip(0, 1), expected.scores[1])
    svd = torch.linalg.svd

    def negated(matrix: torch.Tensor, full_matrices: bool) -> tuple[torch.Tensor, ...]:
        left, singular, rows = svd(matrix, full_matrices=full_matrices)
        return -left, singular, -rows

    monkeypatch.setattr(torch.linalg, "svd", negated)
    torch.testing.assert_close(feature_pca(features).directions, expected.directions)


def test_equal_features_have_equal_colours_in_all_images() -> None:
    first, second = images()
    second[0, 0] = first[2, 1]
    colors = feature_pca([first, second]).colors()
    assert torch.equal(colors[1][0, 0], colors[0][2, 1])
    every = torch.cat([color.flatten(0, 1) for color in colors])
    assert every.min(0).values.tolist() == [0, 0, 0]
    assert every.max(0).values.tolist() == [1, 1, 1]


def test_fewer_dimensions_than_colours() -> None:
    one_patch = feature_pca([torch.randn(1, 1, 6)])
    assert one_patch.explained.tolist() == [0, 0, 0]
    assert one_patch.colors()[0].tolist() == [[[0.5, 0.5, 0.5]]]
    line = feature_pca([torch.arange(12.0).view(3, 4, 1) * torch.tensor([3.0, 4.0])])
    torch.testing.assert_close(line.explained, torch.tensor([1, 0, 0], dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(line.directions[0], torch.tensor([0.6, 0.8], dtype=torch.float64))
    assert (line.colors()[0][..., 1:] == 0.5).all()


def test_hostile_input_is_refused() -> None:
    for features, message in (
        ([], "no features"),
        ([torch.ones(2, 2, 3), torch.ones(2, 2, 4)], "different widths"),
        ([torch.full((2, 2, 3), torch.inf)], "not finite"),
    ):
        with pytest.raises(vrwkv.InputError, match=message):
            feature_pca(features)


def test_the_drawing_shows_the_colours() -> None:
    found = feature_pca([torch.randn(2, 3, 5)])
    figure = draw_feature_pca([Image.new("RGB", (48, 32))], {"trained": found}, (16, 16))
    picture, panel = figure.axes
    assert picture.get_title(loc="left") == "picture"
    shown = panel.images[0].get_array()
    assert shown is not None
    np.testing.assert_array_equal(np.asarray(shown), found.colors()[0].numpy())
    figure.canvas.draw()
