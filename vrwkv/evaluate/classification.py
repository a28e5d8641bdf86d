"""Classification metrics from logits and targets, the same for a trained head and for zero-shot scores.

Ties never help the model: a class that scores exactly as high as the target counts as ranked before it, and so does a
score that is NaN. A model that gives every class the same score therefore has a top-1 accuracy of 0 rather than a share
of lucky hits that depends on the order of the classes. The result is deterministic on every device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vrwkv.errors import InputError


@dataclass(frozen=True)
class ClassScore:
    """One row of the per-class table. Accuracy is None for a class without samples."""

    name: str
    samples: int
    accuracy: float | None
    most_common_error: str | None
    """The wrong class predicted most often for this one, None if there was no mistake."""


def target_ranks(logits: Tensor, targets: Tensor) -> Tensor:
    """How many other classes score at least as high as the target's class; 0 means a strict win.

    Args:
        logits: (N, C), any floating dtype.
        targets: (N,) class indices.

    Returns:
        (N,) int64 in 0..C-1.

    Raises:
        InputError: a target that is no class, or tensors of the wrong shape.
        TypeError: integer logits, in which nearly all classes would tie.
    """
    _check(logits, targets)
    target_logits = logits.gather(1, targets[:, None])
    return (~(logits < target_logits)).sum(dim=1) - 1


def predicted_classes(logits: Tensor, targets: Tensor) -> Tensor:
    """The best-scoring class of each row, (N,) int64.

    Among equals the lowest index wins, except that the target loses to any other class, so that a prediction is correct
    exactly where `target_ranks` is 0. Arguments and errors as `target_ranks`.
    """
    correct = target_ranks(logits, targets) == 0
    minus_infinity = float("-inf")
    others = logits.nan_to_num(nan=minus_infinity, posinf=float("inf"), neginf=minus_infinity)
    best_other = others.scatter(1, targets[:, None], minus_infinity).argmax(dim=1)
    # Where every other class is at minus infinity, argmax answers 0, which may be the target itself.
    best_other = torch.where(best_other == targets, (targets + 1) % logits.shape[1], best_other)
    return torch.where(correct, targets, best_other)


def accuracy_within(ranks: Tensor, k: int) -> float:
    """The fraction of `target_ranks` below k. Raises InputError if there is no sample or k is not positive."""
    if k < 1:
        raise InputError(f"top-{k} accuracy does not exist; k must be at least 1")
    if ranks.numel() == 0:
        raise InputError("no samples to compute an accuracy from")
    return (ranks < k).double().mean().item()


def top_k_accuracy(logits: Tensor, targets: Tensor, k: int = 1) -> float:
    """Fraction of samples whose target is among the k best classes.

    k is capped at the number of classes, where the answer is 1. Arguments and errors as `target_ranks`.
    """
    return accuracy_within(target_ranks(logits, targets), k)


def confusion_matrix(targets: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Counts (C, C) int64 on the CPU: row = true class, column = predicted class. Needs scikit-learn."""
    from sklearn.metrics import confusion_matrix as count_pairs

    if targets.numel() == 0:
        raise InputError("no samples to compute a confusion matrix from")
    counts = count_pairs(targets.cpu().numpy(), predictions.cpu().numpy(), labels=range(num_classes))
    return torch.from_numpy(counts).long()


def mean_per_class_accuracy(targets: Tensor, predictions: Tensor) -> float:
    """The mean over classes of the accuracy within the class, so that rare classes weigh as much as common ones.

    Classes that are absent from the targets are excluded, not counted as 0. Needs scikit-learn.
    """
    from sklearn.metrics import recall_score

    if targets.numel() == 0:
        raise InputError("no samples to compute a mean per-class accuracy from")
    present = targets.unique().cpu().numpy()
    return float(recall_score(targets.cpu().numpy(), predictions.cpu().numpy(), labels=present, average="macro"))


def per_class_table(confusion: Tensor, class_names: Sequence[str]) -> list[ClassScore]:
    """One row a class, in the order of the classes, from a confusion matrix (C, C)."""
    if confusion.shape != (len(class_names), len(class_names)):
        raise InputError(
            f"a confusion matrix of shape {tuple(confusion.shape)} does not fit {len(class_names)} class names"
        )
    rows = []
    for index, name in enumerate(class_names):
        errors = confusion[index].clone()
        correct, samples = int(errors[index]), int(errors.sum())
        errors[index] = 0
        rows.append(
            ClassScore(
                name=name,
                samples=samples,
                accuracy=correct / samples if samples else None,
                most_common_error=class_names[int(errors.argmax())] if correct < samples else None,
            )
        )
    return rows


def _check(logits: Tensor, targets: Tensor) -> None:
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise InputError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} do not fit; (N, C) and (N,) are needed"
        )
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    num_classes = logits.shape[1]
    invalid = targets[(targets < 0) | (targets >= num_classes)]
    if invalid.numel():
        raise InputError(f"label {int(invalid[0])} is not one of the {num_classes} classes 0..{num_classes - 1}")
