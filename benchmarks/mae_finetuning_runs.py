"""What benchmarks/mae_finetuning.py trains: which images, for how long, and one run of each kind."""

import math
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vrwkv.commands.classifier_evaluation import evaluation_loader
from vrwkv.commands.pretrain_mae import pretrain
from vrwkv.data import LabelledDataConfig, LabelledSource, TrainLoader, build_labelled_source
from vrwkv.data.augmentation import LabelledTransform, training_preprocess
from vrwkv.data.split import split_indices
from vrwkv.data.subset import LabelledSubset
from vrwkv.errors import InputError
from vrwkv.evaluate.classify import classify
from vrwkv.objectives.classification import ClassificationObjective
from vrwkv.objectives.classifier import create_classifier
from vrwkv.objectives.classifier_config import ClassifierConfig
from vrwkv.objectives.mae_config import MaeConfig
from vrwkv.training.configuration import load_config
from vrwkv.training.loop import fit
from vrwkv.training.randomness import seed_generators

FINE_TUNED, SHORT, WHOLE = "MAE, fine-tuned", "from scratch, as many labelled steps", "from scratch, the whole budget"
ROWS = (FINE_TUNED, SHORT, WHOLE)
CLASSES = 10
WARM_UP = 0.1
"""Share of a run's steps over which the learning rate rises."""


@dataclass(frozen=True)
class Plan:
    """Everything that the table depends on, apart from the two recipes in configs/."""

    labels_per_class: tuple[int, ...] = (20, 5, 2)
    learning_rates: tuple[float, ...] = (2e-3, 6e-3, 2e-2)
    seeds: tuple[int, ...] = (0, 1, 2)
    pretraining_epochs: int = 18
    pretraining_batch: int = 128
    fine_tuning_steps: int = 100
    batch: int = 50

    def content(self) -> dict[str, Any]:
        """The plan as JSON holds it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def extends(self, earlier: dict[str, Any]) -> bool:
        """Whether this is the plan with `earlier` as content and perhaps some fewer labels a class added to it.

        Runs of the earlier plan are runs of this one: the largest number of labels decides how many images a pass has.
        """
        labels = earlier["labels_per_class"]
        same_rules = self.content() == {**earlier, "labels_per_class": list(self.labels_per_class)}
        return same_rules and set(labels) <= set(self.labels_per_class) and max(labels) == max(self.labels_per_class)

    @property
    def pretraining_images(self) -> int:
        """Images that pretraining sees, repeats counted."""
        return self.pretraining_epochs * (len(training_images()) // self.pretraining_batch) * self.pretraining_batch

    @property
    def images_per_epoch(self) -> int:
        """Images of one pass; few labelled images are repeated in it, each time differently varied."""
        return max(self.labels_per_class) * CLASSES // self.batch * self.batch

    def epochs(self, row: str) -> int:
        """Passes over the labelled images; the whole budget is rounded up to a full pass."""
        short = math.ceil(self.fine_tuning_steps * self.batch / self.images_per_epoch)
        return short + math.ceil(self.pretraining_images / self.images_per_epoch) if row == WHOLE else short

    def labelled_images(self, row: str) -> int:
        """Labelled images that a row sees, repeats counted."""
        return self.epochs(row) * self.images_per_epoch

    def all_images(self, row: str) -> int:
        """Those of pretraining included."""
        return self.labelled_images(row) + (self.pretraining_images if row == FINE_TUNED else 0)


@dataclass(frozen=True)
class Run:
    """One training of a classifier."""

    labels: int
    row: str
    rate: float
    seed: int


def training_images() -> LabelledSource:
    """The four fifths of scikit-learn's digits."""
    return build_labelled_source(LabelledDataConfig(kind="digits", split="train"))


def tuning_images(training: LabelledSource) -> LabelledSubset:
    """The fifth of each class of the training images by which learning rates are chosen."""
    return LabelledSubset(training, split_indices(training.labels, "held_out"))


def labelled_images(training: LabelledSource, labels: int, seed: int, length: int) -> LabelledSubset:
    """`labels` images of each class, repeated up to `length`; none is a tuning image, fewer are part of more."""
    free = split_indices(training.labels, "train")
    classes = np.asarray(training.labels)[free]
    chosen = []
    for label in range(CLASSES):
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(label,)))
        chosen.append(generator.permutation(free[classes == label])[:labels])
    return LabelledSubset(training, np.resize(np.concatenate(chosen), length))


def pretraining(plan: Plan, seed: int, folder: Path) -> dict[str, Any]:
    """Pretrain on all training images into a run folder; CPU seconds and the held-out images' error."""
    begun = time.process_time()
    overrides = (
        f"run.output={folder}",
        f"run.seed={seed}",
        "run.device=cpu",
        "run.overwrite=true",
        f"data.batch_size={plan.pretraining_batch}",
        f"train.epochs={plan.pretraining_epochs}",
        "train.evaluate_every=0",
        "train.save_every=0",
        f"schedule.warmup_epochs={WARM_UP * plan.pretraining_epochs}",
    )
    results = pretrain(load_config(MaeConfig, "configs/mae/digits_nano.yaml", overrides))
    return {"seconds": time.process_time() - begun, "reconstruction_loss": results["reconstruction_loss"]}


def training(plan: Plan, run: Run, pretrained: Path) -> dict[str, Any]:
    """Train a classifier and judge it; {"failed": reason} where the loss did not stay finite.

    Args:
        plan: how long.
        run: which one.
        pretrained: run folder of the pretraining with the same seed, for the fine-tuned row.
    """
    begun = time.process_time()
    source = training_images()
    epochs = plan.epochs(run.row)
    steps = plan.labelled_images(run.row) // plan.batch
    with tempfile.TemporaryDirectory() as folder:
        overrides = (
            f"run.output={folder}",
            f"run.seed={run.seed}",
            "run.device=cpu",
            f"model.checkpoint={pretrained if run.row == FINE_TUNED else ''}",
            f"data.batch_size={plan.batch}",
            f"train.epochs={epochs}",
            f"train.lr={run.rate}",
            "train.save_every=0",
            f"schedule.warmup_steps={round(WARM_UP * steps)}",
        )
        config = load_config(ClassifierConfig, "configs/classification/digits_nano.yaml", overrides)
        seed_generators(run.seed)
        classifier = create_classifier(config.model, CLASSES, source.class_names)
        loader = TrainLoader(
            labelled_images(source, run.labels, run.seed, plan.images_per_epoch),
            LabelledTransform(training_preprocess(classifier.image, config.data.augmentation)),
            batch_size=plan.batch,
            seed=run.seed,
        )
        try:
            fitted = fit(classifier.model, ClassificationObjective(config.loss, CLASSES), loader, config, folder)
        except InputError as error:
            return {"failed": str(error)}
    seconds = time.process_time() - begun
    held_out = build_labelled_source(LabelledDataConfig(kind="digits", split="held_out"))
    accuracies = {
        name: classify(fitted.model, evaluation_loader(classifier, images, 256)).top1
        for name, images in (("tuning", tuning_images(source)), ("held_out", held_out))
    }
    return {**accuracies, "images": fitted.steps * plan.batch, "seconds": seconds}


def start_worker() -> None:
    """Called once in every process that trains: one thread, and no lines of progress from many runs at once."""
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
