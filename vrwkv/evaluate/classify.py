"""Accuracy of a classifier over labelled images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vrwkv.device import to_device
from vrwkv.errors import InputError
from vrwkv.evaluate.classification import (
    accuracy_within,
    confusion_matrix,
    mean_per_class_accuracy,
    predicted_classes,
    target_ranks,
)
from vrwkv.evaluate.mode import evaluation_mode, progress


@dataclass(frozen=True)
class ClassificationResult:
    """Accuracies as fractions, and the predictions they come from (see `vrwkv.evaluate.classification` for ties)."""

    top1: float
    top5: float
    """1 when there are at most five classes."""
    mean_per_class: float
    """Over the classes that occur among the targets."""
    samples: int
    confusion: Tensor
    """(C, C) int64: row = true class, column = predicted class."""
    predictions: Tensor
    """(N,) int64."""
    targets: Tensor
    """(N,) int64."""

    def metrics(self) -> dict[str, float | int]:
        """The numbers under their names in results.json."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "mean_per_class": self.mean_per_class,
            "samples": self.samples,
        }


ResultT = TypeVar("ResultT", bound=ClassificationResult)


class Predictions:
    """Collects a classification batch by batch; of each sample, only the rank of the target and the prediction."""

    def __init__(self) -> None:
        self._ranks: list[Tensor] = []
        self._predictions: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._num_classes = 0

    def add(self, scores: Tensor, targets: Tensor) -> None:
        """Add scores (B, C) and targets (B,), on any device. Raises InputError for a target that is no class."""
        scores, targets = scores.cpu(), targets.cpu().long()
        self._ranks.append(target_ranks(scores, targets))
        self._predictions.append(predicted_classes(scores, targets))
        self._targets.append(targets)
        self._num_classes = scores.shape[1]

    def result(self, result_class: type[ResultT]) -> ResultT:
        """The accuracies of all that was added. Raises InputError if that is nothing."""
        if not self._targets:
            raise InputError("no images to classify: the evaluation set is empty")
        ranks, predictions, targets = map(torch.cat, (self._ranks, self._predictions, self._targets))
        return result_class(
            top1=accuracy_within(ranks, 1),
            top5=accuracy_within(ranks, 5),
            mean_per_class=mean_per_class_accuracy(targets, predictions),
            samples=len(targets),
            confusion=confusion_matrix(targets, predictions, self._num_classes),
            predictions=predictions,
            targets=targets,
        )


def classify(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], device: torch.device | str = "cpu"
) -> ClassificationResult:
    """Classify labelled images.

    Args:
        model: on `device` already; images -> logits (B, C).
        batches: each with "image" (B, 3, H, W), preprocessed, or a list of B images for a model that packs them, and
            "label" (B,).
        device: where images are moved to.

    Raises:
        InputError: no images, or a label that is no class of the model.
    """
    predictions = Predictions()
    with evaluation_mode(model), torch.inference_mode():
        for batch in progress(batches, "classifying"):
            predictions.add(model(to_device(batch["image"], device)).float(), batch["label"])
    return predictions.result(ClassificationResult)
