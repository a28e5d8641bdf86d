"""Accuracy of a model over batches, at its own resolution and at others."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import vrwkv  # noqa: F401 - registers the models
from vrwkv.errors import InputError
from vrwkv.evaluate.class_table import format_class_table, write_class_table
from vrwkv.evaluate.classification import per_class_table
from vrwkv.evaluate.classify import classify
from vrwkv.evaluate.features import extract_features
from vrwkv.evaluate.resolution import classify_at_resolutions
from vrwkv.evaluate.resolution_plot import draw_resolutions
from vrwkv.evaluate.results import format_results, read_results, write_results


class Brightness(nn.Module):
    """Says class 0 for dark images, 1 for bright ones, and 2 never; in training mode it says nonsense."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3))
        assert not self.training
        return torch.stack([1 - mean, mean, torch.full_like(mean, -9)], dim=1)


def batches(size: int = 4) -> Iterator[dict[str, Tensor]]:
    values = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.7])
    labels = torch.tensor([0, 1, 0, 1, 2])
    for part in (slice(0, 3), slice(3, 5)):
        yield {"image": values[part, None, None, None].expand(-1, 3, size, size), "label": labels[part]}


def test_accuracies_matrix_and_mode() -> None:
    model = Brightness().train()
    result = classify(model, batches())
    assert model.training
    assert (result.top1, result.top5, result.samples) == (pytest.approx(0.8), 1.0, 5)
    assert result.mean_per_class == pytest.approx(2 / 3)
    assert result.confusion.tolist() == [[2, 0, 0], [0, 2, 0], [0, 1, 0]]
    with pytest.raises(InputError, match="empty"):
        classify(model, [])
    wrong = [{"image": torch.zeros(1, 3, 4, 4), "label": torch.tensor([3])}]
    with pytest.raises(InputError, match="label 3"):
        classify(model, wrong)


def test_table_of_classes(tmp_path: Path) -> None:
    rows = per_class_table(classify(Brightness(), batches()).confusion, ["dark", "bright, light", "odd"])
    write_class_table(rows, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "class,samples,accuracy,most_common_error",
        "dark,2,1.000000,",
        '"bright, light",2,1.000000,',
        'odd,1,0.000000,"bright, light"',
    ]
    assert format_class_table(rows, limit=1).splitlines()[1].startswith("odd ")


@pytest.mark.parametrize("name", ["vrwkv_tiny_patch16_224", "vit_tiny_patch16_224"])
def test_every_resolution_and_the_model_is_left_alone(name: str) -> None:
    model = timm.create_model(name, img_size=32, patch_size=8, depth=1, embed_dim=48, num_classes=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    results = classify_at_resolutions(model, batches, [48, 16, 32, 48])
    assert list(results) == [16, 32, 48]
    assert results[32].predictions.tolist() == classify(model, batches(32)).predictions.tolist()
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    with pytest.raises(InputError, match="no resolutions"):
        classify_at_resolutions(model, batches, [])


def test_features_are_what_the_classifier_sees() -> None:
    model = timm.create_model("vrwkv_tiny_patch16_224", img_size=16, patch_size=8, depth=1, embed_dim=32, num_classes=3)
    features, labels = extract_features(model, batches(16))
    logits = torch.cat([model(batch["image"]) for batch in batches(16)])
    assert features.shape == (5, 32)
    assert labels.tolist() == [0, 1, 0, 1, 2]
    assert torch.allclose(model.head(features), logits, atol=1e-5)
    assert not features.requires_grad
    assert not features.is_inference()
    with torch.no_grad():
        model.pos_embed[0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite for 5 images"):
        extract_features(model, batches(16))


def test_plot_and_results(tmp_path: Path) -> None:
    draw_resolutions({224: 0.75, 112: 0.5}, tmp_path / "r.png", trained_at=224)
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"
    write_results(tmp_path, {"top1": torch.tensor(0.75), "resolution_top1": {112: 0.5}})
    write_results(tmp_path, {"knn_top1": 1 / 3})
    assert read_results(tmp_path) == {"top1": 0.75, "resolution_top1": {"112": 0.5}, "knn_top1": 0.333333}
    assert "top-1 at 112 pixels          50.00 %" in format_results(read_results(tmp_path))
    with pytest.raises(ValueError, match="finite"):
        write_results(tmp_path, {"top1": float("nan")})
    (tmp_path / "results.json").write_text("[")
    with pytest.raises(InputError, match="not valid JSON"):
        write_results(tmp_path, {"top1": 1.0})
