"""A linear classifier on frozen features: logistic regression whose strength is chosen on held-out images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vrwkv.errors import InputError

REGULARISATIONS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
_VALIDATION_FRACTION = 0.2


@dataclass(frozen=True)
class LinearProbe:
    """Scores of the probe and how it was regularised."""

    scores: Tensor
    """(M, C) float32: log-probabilities; a class that training lacked has minus infinity."""
    regularisation: float
    """scikit-learn's C: the inverse of the L2 penalty's strength."""


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    num_classes: int,
    regularisations: Sequence[float] = REGULARISATIONS,
    seed: int = 0,
    max_iterations: int = 1000,
) -> LinearProbe:
    """Fit a logistic regression on the training features and score others.

    Features are standardised by the training set's mean and deviation. Of several regularisations the one is taken that
    classifies a held-out fifth of the training set best (the strongest of equals), and the probe is fitted again on all
    of it: the features to be scored have no part in the choice.

    Args:
        train_features: (N, D).
        train_labels: (N,) int64.
        features: (M, D).
        num_classes: number of classes C.
        regularisations: candidates for scikit-learn's C, all positive.
        seed: of the split.
        max_iterations: of the solver.

    Raises:
        InputError: fewer than two classes in the training set, no candidates, or shapes that do not fit.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not regularisations or min(regularisations) <= 0:
        raise InputError(f"regularisations must be positive numbers, got {list(regularisations)}")
    if train_features.ndim != 2 or features.shape[1:] != train_features.shape[1:]:
        raise InputError(f"features {tuple(train_features.shape)} and {tuple(features.shape)} do not fit")
    inputs, labels = train_features.double().numpy(), train_labels.numpy()
    if len(np.unique(labels)) < 2:
        raise InputError("a linear probe needs training images of at least two classes")

    def fit(c: float, rows: np.ndarray) -> object:
        regression = LogisticRegression(C=c, max_iter=max_iterations)
        return make_pipeline(StandardScaler(), regression).fit(inputs[rows], labels[rows])

    everything = np.arange(len(labels))
    best = regularisations[0]
    if len(regularisations) > 1:
        train_rows, held_out = _split(labels, seed)
        accuracies = [
            (fit(c, train_rows).score(inputs[held_out], labels[held_out]), -c)  # type: ignore[attr-defined]
            for c in regularisations
        ]
        best = -max(accuracies)[1]
    probe = fit(best, everything)
    scores = torch.full((len(features), num_classes), float("-inf"))
    found = torch.from_numpy(probe.predict_log_proba(features.double().numpy())).float()  # type: ignore[attr-defined]
    scores[:, torch.from_numpy(np.unique(labels))] = found
    return LinearProbe(scores, best)


def _split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit and rows to choose by: a fifth of each class; a class with one image has it on both sides."""
    generator = np.random.default_rng(seed)
    train, held_out = [], []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        cut = max(1, round(len(members) * _VALIDATION_FRACTION))
        held_out.append(members[:cut])
        train.append(members[cut:] if len(members) > cut else members)
    return np.concatenate(train), np.concatenate(held_out)
