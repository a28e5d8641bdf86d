"""What benchmarks/small_classifiers.py trains: data sets, models, recipes, and one run of one of them."""

import copy
import json
import os
import re
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import timm
import torch
from torch import nn

from vrwkv.data import EvaluationLoader, FontCharactersSource, LabelledDataConfig, TrainLoader, build_labelled_source
from vrwkv.data.augmentation import (
    AugmentationConfig,
    ImageFormat,
    LabelledTransform,
    evaluation_preprocess,
    training_preprocess,
)
from vrwkv.data.font_characters import FAMILIES
from vrwkv.data.source import LabelledSource
from vrwkv.data.split import split_indices
from vrwkv.data.subset import LabelledSubset
from vrwkv.errors import InputError
from vrwkv.evaluate.classify import classify
from vrwkv.objectives.classification import ClassificationObjective
from vrwkv.objectives.classifier_config import ClassifierConfig, LossConfig
from vrwkv.training.config import OptimConfig, RunConfig, ScheduleConfig, TrainConfig
from vrwkv.training.loop import fit
from vrwkv.training.randomness import seed_generators

TUNING_FAMILY = "DejaVu Sans Mono"
LARGEST_DIFFERENCE_IN_SIZE = 0.1
MEAN = STD = (0.5, 0.5, 0.5)
SCHEDULE = ScheduleConfig(warmup_epochs=2, min_lr=1e-5, warmup_lr=1e-6)


@dataclass(frozen=True)
class DataSet:
    """A labelled set and how long everything is trained on it."""

    kind: Literal["digits", "fonts"]
    image_size: int
    patch_size: int
    classes: int
    epochs: int
    batch_size: int
    shown_to_resnet: int
    """Pixels that the ResNet's images are enlarged to, because its stem makes them smaller by 4."""


DATA = {
    "digits": DataSet("digits", image_size=8, patch_size=2, classes=10, epochs=10, batch_size=32, shown_to_resnet=32),
    "fonts": DataSet("fonts", image_size=24, patch_size=6, classes=36, epochs=10, batch_size=32, shown_to_resnet=32),
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vrwkv": ("vrwkv_tiny_patch16_224", {"embed_dim": 96, "depth": 4}),
    "vrwkv6": ("vrwkv6_tiny_patch16_224", {"embed_dim": 80, "depth": 4, "num_heads": 5}),
    "vit": ("vit_tiny_patch16_224", {"embed_dim": 100, "depth": 4, "num_heads": 4}),
    "resnet": ("resnet18d", {"stem_width": 8, "channels": (16, 32, 64, 96)}),
}
"""timm's name and arguments; widths chosen for equal numbers of parameters."""


@dataclass(frozen=True)
class Recipe:
    """How images are varied and mixed, and how many branches are dropped."""

    loss: LossConfig
    auto_augment: str | None = None
    random_erasing: float = 0.0
    drop_path_rate: float = 0.0

    @property
    def augmentation(self) -> AugmentationConfig:
        """The crops are the same in all recipes; nothing is mirrored, because characters are not symmetric."""
        return AugmentationConfig(
            scale=(0.8, 1.0),
            ratio=(0.9, 1.1),
            horizontal_flip=0.0,
            auto_augment=self.auto_augment,
            random_erasing=self.random_erasing,
        )


# Beyond strength 9, timm's Posterize asks for 0 bits, which Pillow 13 refuses.
RECIPES = {
    "plain": Recipe(LossConfig(label_smoothing=0.1)),
    "deit": Recipe(
        LossConfig(label_smoothing=0.1, mixup=0.8, cutmix=1.0),
        auto_augment="rand-m9-mmax9-mstd0.5-inc1",
        random_erasing=0.25,
        drop_path_rate=0.1,
    ),
}


@dataclass(frozen=True)
class Row:
    """A line of the table: a model trained by a recipe."""

    model: str
    recipe: str
    title: str


ROWS = {
    "vrwkv": Row("vrwkv", "plain", "vrwkv"),
    "vrwkv6": Row("vrwkv6", "plain", "vrwkv6"),
    "vit": Row("vit", "plain", "ViT"),
    "resnet": Row("resnet", "plain", "ResNet"),
    "vrwkv_deit": Row("vrwkv", "deit", "vrwkv, DeiT recipe"),
    "vit_deit": Row("vit", "deit", "ViT, DeiT recipe"),
}


@dataclass(frozen=True)
class Run:
    """One training."""

    data: str
    row: str
    rate: float
    seed: int
    tuning: bool
    """Train on a part of the training images and judge on the others, rather than on the held-out ones."""


@dataclass(frozen=True)
class Plan:
    """Everything that the table depends on."""

    data: tuple[str, ...] = tuple(DATA)
    rows: tuple[str, ...] = tuple(ROWS)
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    tuning_seed: int = 100
    seeds: tuple[int, ...] = (0, 1, 2)

    def content(self) -> dict[str, Any]:
        """The plan as JSON holds it, with what the names in it stand for."""
        content = {
            **asdict(self),
            "data_sets": {name: asdict(DATA[name]) for name in self.data},
            "models": MODELS,
            "recipes": {name: asdict(recipe) for name, recipe in RECIPES.items()},
            "titles": {name: asdict(ROWS[name]) for name in self.rows},
            "optimiser": asdict(OptimConfig()),
            "schedule": asdict(SCHEDULE),
        }
        return json.loads(json.dumps(content))


def build(data: str, row: str) -> nn.Module:
    """A freshly initialised model, from the global generators."""
    found = DATA[data]
    architecture, options = MODELS[ROWS[row].model]
    if ROWS[row].model != "resnet":
        options = {**options, "img_size": found.image_size, "patch_size": found.patch_size}
    if RECIPES[ROWS[row].recipe].drop_path_rate:
        options = {**options, "drop_path_rate": RECIPES[ROWS[row].recipe].drop_path_rate}
    return timm.create_model(architecture, num_classes=found.classes, **options)


def image_format(data: str, row: str) -> ImageFormat:
    """The same for all models but for the ResNet's larger images; evaluation shows the whole image."""
    size = DATA[data].shown_to_resnet if ROWS[row].model == "resnet" else DATA[data].image_size
    return ImageFormat(size, MEAN, STD, crop_pct=1.0)


def count_parameters(data: str) -> dict[str, int]:
    """Parameters of each row's model.

    Raises:
        SystemExit: one differs by more than a tenth from vrwkv's.
    """
    counts = {row: sum(parameter.numel() for parameter in build(data, row).parameters()) for row in ROWS}
    for row, count in counts.items():
        if abs(count / counts["vrwkv"] - 1) > LARGEST_DIFFERENCE_IN_SIZE:
            raise SystemExit(f"{data}: {row} has {count:,} parameters, vrwkv {counts['vrwkv']:,}: not comparable")
    return counts


def sources(data: str, tuning: bool) -> tuple[LabelledSource, LabelledSource]:
    """Images to train on and images to judge on; with `tuning`, both are training images."""
    train = build_labelled_source(LabelledDataConfig(kind=DATA[data].kind, split="train"))
    if not tuning:
        return train, build_labelled_source(LabelledDataConfig(kind=DATA[data].kind, split="held_out"))
    if isinstance(train, FontCharactersSource):
        aside = np.isin(train.fonts, FAMILIES[TUNING_FAMILY])
        parts = np.flatnonzero(~aside), np.flatnonzero(aside)
    else:
        parts = split_indices(train.labels, "train"), split_indices(train.labels, "held_out")
    return LabelledSubset(train, parts[0]), LabelledSubset(train, parts[1])


def training(run: Run) -> dict[str, Any]:
    """Train once and judge once.

    Returns:
        "top1" as a fraction, "samples" judged and "seconds" of this process's time that training took, or
        {"failed": reason} where the loss did not stay finite.
    """
    data, recipe = DATA[run.data], RECIPES[ROWS[run.row].recipe]
    train, judge = sources(run.data, run.tuning)
    shown = image_format(run.data, run.row)
    seed_generators(run.seed)
    model = build(run.data, run.row)
    _compile_kernels(model, shown.size, data.batch_size)
    objective = ClassificationObjective(recipe.loss, data.classes, local_batch_size=data.batch_size)
    loader = TrainLoader(
        train,
        LabelledTransform(training_preprocess(shown, recipe.augmentation)),
        batch_size=data.batch_size,
        seed=run.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        config = ClassifierConfig(
            run=RunConfig(output=folder, seed=run.seed, device="cpu"),
            loss=recipe.loss,
            train=TrainConfig(epochs=data.epochs, lr=run.rate, save_every=0),
            schedule=SCHEDULE,
        )
        begun = time.process_time()
        try:
            fitted = fit(model, objective, loader, config, folder)
        except InputError as error:
            if not re.search(r" is -?(nan|inf) at step", str(error)):
                raise
            return {"failed": str(error).partition(":")[0]}
        seconds = time.process_time() - begun
    batches = EvaluationLoader(judge, LabelledTransform(evaluation_preprocess(shown)), batch_size=256)
    result = classify(fitted.model, batches)
    return {"top1": result.top1, "samples": result.samples, "seconds": seconds}


def _compile_kernels(model: nn.Module, size: int, batch_size: int) -> None:
    """Have compilation over before training is timed; a copy, because normalisation keeps account of what it saw."""
    warmed = copy.deepcopy(model)
    warmed(torch.zeros(batch_size, 3, size, size)).sum().backward()


def start_worker() -> None:
    """Called once in every process that trains: one thread, and no lines of progress from many runs at once."""
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
