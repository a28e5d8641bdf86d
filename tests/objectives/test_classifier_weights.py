"""Starting from trained weights, at another resolution, for other classes; and reading a classifier back."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import vrwkv
from vrwkv.errors import InputError
from vrwkv.models.position import resample_position_embedding
from vrwkv.objectives.classifier import (
    Classifier,
    check_class_names,
    create_classifier,
    load_classifier,
    save_metadata,
)
from vrwkv.objectives.classifier_config import ClassifierModelConfig, DistillationConfig
from vrwkv.objectives.teacher import create_distillation
from vrwkv.training.weights import save_weights

SMALL = {"image_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 1}


def config(**options: object) -> ClassifierModelConfig:
    return ClassifierModelConfig(**{**SMALL, **options})  # type: ignore[arg-type]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    classifier = create_classifier(config(), 3, ["a", "b", "c"])
    nn.init.normal_(classifier.model.pos_embed)  # type: ignore[arg-type]
    save_weights(classifier.model, tmp_path / "model.safetensors", save_metadata(classifier))
    return tmp_path


def test_a_saved_classifier_says_all_about_itself(trained: Path) -> None:
    loaded = load_classifier(trained)
    assert (loaded.architecture, loaded.class_names, loaded.num_classes) == (
        "vrwkv_tiny_patch16_224",
        ["a", "b", "c"],
        3,
    )
    assert loaded.image.size == 8
    assert not loaded.model.training
    assert loaded.model(torch.zeros(1, 3, 8, 8)).shape == (1, 3)


def test_fine_tuning_at_another_resolution_resamples_positions_and_keeps_the_rest(trained: Path) -> None:
    before = load_classifier(trained).model.state_dict()
    larger = create_classifier(config(image_size=12, checkpoint=str(trained)), 3)
    after = larger.model.state_dict()
    assert after["pos_embed"].shape == (1, 36, 16)
    assert torch.equal(after["pos_embed"], resample_position_embedding(before["pos_embed"], (4, 4), (6, 6)))
    assert all(torch.equal(after[name], before[name]) for name in before if name != "pos_embed")
    assert "positions resampled from 16 to 36" in larger.starting_point
    assert "fresh" not in larger.starting_point


def test_another_number_of_classes_gets_a_fresh_classifier(trained: Path) -> None:
    before = load_classifier(trained).model.state_dict()
    other = create_classifier(config(checkpoint=str(trained / "model.safetensors")), 7)
    assert other.model.state_dict()["head.weight"].shape == (7, 16)
    assert torch.equal(other.model.state_dict()["pos_embed"], before["pos_embed"])
    assert "a fresh classifier" in other.starting_point


def test_published_names_are_understood_and_the_architecture_can_be_given(trained: Path, tmp_path: Path) -> None:
    published = tmp_path / "published.pth"
    model = vrwkv.VisionRWKV(num_classes=7, depth=12, embed_dim=192)
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in vrwkv.to_published(model).items()}}, published)
    loaded = load_classifier(published, default_architecture="vrwkv_tiny_patch16_224")
    assert loaded.num_classes == 7
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), model.parameters(), strict=True))
    with pytest.raises(InputError, match="does not say which model"):
        load_classifier(published)


@pytest.mark.parametrize("architecture", ["resnet10t", "vit_tiny_patch16_224"])
def test_models_of_timm_take_another_resolution_too(architecture: str, tmp_path: Path) -> None:
    def build(size: int, checkpoint: str = "") -> Classifier:
        return create_classifier(ClassifierModelConfig(architecture, checkpoint, image_size=size), 3)

    first = build(32)
    save_weights(first.model, tmp_path / "model.safetensors", save_metadata(first))
    assert load_classifier(tmp_path).model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    larger = build(48, str(tmp_path))
    assert larger.model(torch.zeros(2, 3, 48, 48)).shape == (2, 3)
    name = next(name for name in first.model.state_dict() if name.endswith("weight") and "head" not in name)
    assert torch.equal(first.model.state_dict()[name], larger.model.state_dict()[name])


def test_only_the_head_is_trained_where_asked() -> None:
    model = create_classifier(config(trainable="head"), 3).model
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


def test_weights_that_do_not_fit_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"of another shape: .*pos_embed"):
        create_classifier(config(embed_dim=32, checkpoint=str(trained)), 3)
    with pytest.raises(InputError, match=r"missing: blocks\.1"):
        create_classifier(config(depth=2, checkpoint=str(trained)), 3)
    save_file({"strange": torch.zeros(2)}, tmp_path / "strange.safetensors")
    with pytest.raises(InputError, match="missing: pos_embed"):
        create_classifier(config(checkpoint=str(tmp_path / "strange.safetensors")), 3)
    with pytest.raises(InputError, match="nowhere"):
        create_classifier(config(checkpoint="nowhere"), 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has its training finished"):
        load_classifier(tmp_path / "empty")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"architecture": "vrwkv_tini_patch16_224"}, "vrwkv_tiny_patch16_224"),
        ({"embed_dim": 0}, "embed_dim"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"options": {"global_pol": "max"}}, "global_pol"),
        ({"options": {"global_pool": "mean"}}, "global_pool|mean"),
    ],
)
def test_impossible_models(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        create_classifier(config(**options), 3)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "b", "c"], None),
        (["a", "b"], None),
        (["0", "1", "2"], None),
        (["a", "c"], "class 1 is 'c' there, 'b' to the model"),
        (["a", "b", "c", "d"], "4 classes, the model 3"),
    ],
)
def test_classes_must_mean_the_same(trained: Path, names: list[str], said: str | None) -> None:
    classifier = load_classifier(trained)
    if said is None:
        check_class_names(classifier, names, "the set")
        return
    with pytest.raises(InputError, match=said):
        check_class_names(classifier, names, "the set")


def test_a_run_can_teach_and_a_teacher_of_other_classes_cannot(trained: Path) -> None:
    student = create_classifier(config(image_size=12), 3, ["a", "b", "c"])
    taught = create_distillation(DistillationConfig("vrwkv_tiny_patch16_224", str(trained)), student)
    assert taught is not None
    assert not any(parameter.requires_grad for parameter in taught.teacher.parameters())
    assert taught.loss(torch.zeros(2, 3), torch.zeros(2, 3, 12, 12)).isfinite()
    with pytest.raises(InputError, match="3 classes"):
        create_distillation(DistillationConfig("vrwkv_tiny_patch16_224", str(trained)), create_classifier(config(), 5))
