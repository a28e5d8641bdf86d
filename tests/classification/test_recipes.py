"""Every recipe builds what it names; the published ones say what was published."""

from pathlib import Path

import pytest
import timm
import torch

import vrwkv  # noqa: F401 - registers the models
from vrwkv.data.augmentation import training_preprocess
from vrwkv.objectives.classification import ClassificationObjective
from vrwkv.objectives.classifier import create_classifier, image_format
from vrwkv.objectives.classifier_config import ClassifierConfig
from vrwkv.training.configuration import config_to_yaml, load_config
from vrwkv.training.optimizer import undecayed_parameters

RECIPES = Path(__file__).parents[2] / "configs" / "classification"
# Parameters, drop path, Mixup and CutMix: specs of the paper's models for 1,000 classes.
PUBLISHED = {
    "vrwkv_tiny": (6_155_176, 0.0, False),
    "vrwkv_small": (23_820_136, 0.3, True),
    "vrwkv_base": (93_645_544, 0.5, True),
    "vrwkv6_tiny": (7_641_256, 0.0, False),
    "vrwkv6_small": (27_677_032, 0.3, True),
    "vrwkv6_base": (104_898_280, 0.5, True),
}


def recipe(name: str) -> ClassifierConfig:
    return load_config(ClassifierConfig, RECIPES / f"{name}.yaml")


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_recipe_builds_and_survives_being_written(name: str, tmp_path: Path) -> None:
    config = recipe(name)
    (tmp_path / "again.yaml").write_text(config_to_yaml(config))
    assert load_config(ClassifierConfig, tmp_path / "again.yaml") == config
    config.model.checkpoint = ""
    with torch.device("meta"):
        classifier = create_classifier(config.model, 1000)
    size = classifier.image.size
    assert classifier.model(torch.empty(1, 3, size, size, device="meta")).shape == (1, 1000)
    training_preprocess(classifier.image, config.data.augmentation)
    ClassificationObjective(config.loss, 1000, None, config.data.batch_size)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes(name: str) -> None:
    config = recipe(name)
    parameters, drop_path, mixed = PUBLISHED[name]
    with torch.device("meta"):
        model = timm.create_model(config.model.architecture)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert config.model.drop_path_rate == drop_path
    assert (config.loss.mixup, config.loss.cutmix) == ((0.8, 1.0) if mixed else (0.0, 0.0))
    assert (config.loss.mix_probability, config.loss.mix_switch_probability) == (1.0, 0.5)
    assert config.loss.label_smoothing == 0.1
    train, optim, schedule, augmentation = config.train, config.optim, config.schedule, config.data.augmentation
    assert (train.epochs, config.data.batch_size, train.lr, train.precision) == (300, 1024, 1e-3, "fp32")
    assert (train.grad_clip, train.ema_decay, config.data.repeats) == (5.0, None, 1)
    assert (optim.name, optim.weight_decay, optim.decay, optim.betas, optim.eps) == (
        "adamw",
        0.05,
        "published",
        (0.9, 0.999),
        1e-8,
    )
    assert (schedule.name, schedule.warmup_epochs, schedule.warmup_lr, schedule.min_lr) == ("cosine", 20, 1e-6, 1e-5)
    assert (augmentation.scale, augmentation.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert (augmentation.horizontal_flip, augmentation.color_jitter) == (0.5, 0.0)
    assert (augmentation.auto_augment, augmentation.random_erasing) == ("rand-m9-mstd0.5-inc1", 0.25)
    assert image_format(model, None).interpolation == "bicubic"


def test_the_published_fine_tuning_of_the_large_model() -> None:
    config = recipe("vrwkv_large_finetune_384")
    with torch.device("meta"):
        model = timm.create_model(config.model.architecture)
    assert sum(parameter.numel() for parameter in model.parameters()) == 334_881_768
    assert image_format(model, config.model.image_size).size == 384
    assert model.pos_embed.shape == (1, 144, 1024)
    train, schedule, loss = config.train, config.schedule, config.loss
    assert (train.epochs, train.lr, train.precision, train.grad_clip) == (20, 1e-5, "fp16", 1.0)
    assert (train.ema_decay, train.grad_checkpointing, config.model.drop_path_rate) == (0.9999, True, 0.1)
    assert (schedule.warmup_epochs, schedule.warmup_lr, schedule.min_lr) == (2, 1e-8, 1e-7)
    assert (loss.mixup, loss.mix_probability, loss.mix_switch_probability, loss.label_smoothing) == (0.8, 0.5, 0, 0.1)
    assert config.data.augmentation.auto_augment is None
    undecayed = undecayed_parameters(model, config.optim.decay)
    # One-dimensional parameters do not decay, apart from decay, bonus and the mixes (published with three dimensions).
    expected = {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim == 1 and not name.rpartition(".")[2].startswith(("decay", "bonus", "mix_"))
    }
    assert undecayed == expected
    assert any(name.endswith("ls1.gamma") for name in undecayed)
