"""Accuracy of a classifier over labelled images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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


def classify(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], device: torch.device | str = "cpu"
) -> ClassificationResult:
    """Classify labelled images; of each, only the rank of the target and the prediction are kept.

    Args:
        model: on `device` already; images -> logits (B, C).
        batches: each with "image" (B, 3, H, W), preprocessed, or a list of B images for a model that packs them, and
            "label" (B,).
        device: where images are moved to.

    Raises:
        InputError: no images, or a label that is no class of the model.
    """
    ranks, predictions, targets = [], [], []
    num_classes = 0
    with evaluation_mode(model), torch.inference_mode():
        for batch in progress(batches, "classifying"):
            logits = model(to_device(batch["image"], device)).float().cpu()
            labels = batch["label"].cpu().long()
            num_classes = logits.shape[1]
            ranks.append(target_ranks(logits, labels))
            predictions.append(predicted_classes(logits, labels))
            targets.append(labels)
    if not targets:
        raise InputError("no images to classify: the evaluation set is empty")
    # Clones, since inference tensors cannot be used in later training.
    all_ranks, all_predictions, all_targets = (torch.cat(parts).clone() for parts in (ranks, predictions, targets))
    return ClassificationResult(
        top1=accuracy_within(all_ranks, 1),
        top5=accuracy_within(all_ranks, 5),
        mean_per_class=mean_per_class_accuracy(all_targets, all_predictions),
        samples=len(all_targets),
        confusion=confusion_matrix(all_targets, all_predictions, num_classes),
        predictions=all_predictions,
        targets=all_targets,
    )
