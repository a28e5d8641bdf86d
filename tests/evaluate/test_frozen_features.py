"""k nearest neighbours and linear probes on features whose classes are known to be separable, or known not to be."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vrwkv.errors import InputError
from vrwkv.evaluate.classification import top_k_accuracy
from vrwkv.evaluate.knn import knn_scores
from vrwkv.evaluate.linear_probe import linear_probe

CLASSES = 4


def clusters(count: int, seed: int, spread: float) -> tuple[Tensor, Tensor]:
    """Directions around one axis per class, of any length."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    features = torch.eye(8)[labels] + spread * torch.randn(count, 8, generator=generator)
    return features * (0.1 + 10 * torch.rand(count, 1, generator=generator)), labels


def test_separable_features_are_classified_and_noise_is_not() -> None:
    train, test = clusters(200, 0, 0.1), clusters(80, 1, 0.1)
    assert top_k_accuracy(knn_scores(*train, test[0], CLASSES), test[1]) == 1.0
    assert top_k_accuracy(linear_probe(*train, test[0], CLASSES).scores, test[1]) > 0.9
    noise, other_noise = torch.randn(280, 8, generator=torch.Generator().manual_seed(2)).split([200, 80])
    # Chance is 0.25; four standard deviations on 80 samples are 0.19.
    assert top_k_accuracy(knn_scores(noise, train[1], other_noise, CLASSES), test[1]) < 0.45
    assert top_k_accuracy(linear_probe(noise, train[1], other_noise, CLASSES).scores, test[1]) < 0.45


def test_votes_by_hand_across_chunks() -> None:
    generator = torch.Generator().manual_seed(0)
    train, labels = torch.randn(30, 5, generator=generator), torch.arange(30) % 3
    queries = torch.randn(2500, 5, generator=generator)
    scores = knn_scores(train, labels, queries, 3, k=7, temperature=0.2)
    a, b = train.double().numpy(), queries.double().numpy()
    cosines = (b @ a.T) / np.linalg.norm(b, axis=1)[:, None] / np.linalg.norm(a, axis=1)
    expected = np.zeros((2500, 3))
    for row, cosine in enumerate(cosines):
        for neighbour in np.argsort(-cosine)[:7]:
            expected[row, neighbour % 3] += np.exp((cosine[neighbour] - cosine.max()) / 0.2)
    assert np.abs(scores.numpy() - expected).max() < 1e-4


def test_more_neighbours_than_images_and_one_image_a_class() -> None:
    train, labels = torch.eye(3), torch.arange(3)
    assert torch.equal(knn_scores(train, labels, train * 5, 4, k=99).argmax(1), labels)
    assert torch.equal(linear_probe(train, labels, train, 4).scores.argmax(1), labels)


def test_a_class_that_training_lacks_is_never_predicted() -> None:
    train, labels = clusters(80, 0, 0.1)
    kept = labels != 1
    probe = linear_probe(train[kept], labels[kept], train, CLASSES)
    assert (probe.scores[:, 1] == float("-inf")).all()
    assert torch.allclose(probe.scores[:, [0, 2, 3]].exp().sum(1), torch.ones(80), atol=1e-5)


def test_the_regularisation_is_chosen_without_the_features_to_be_scored() -> None:
    train, test = clusters(60, 0, 0.6), clusters(60, 1, 0.6)
    chosen = linear_probe(*train, test[0], CLASSES)
    again = linear_probe(*train, test[0].flip(0) * 3, CLASSES)
    fixed = linear_probe(*train, test[0], CLASSES, regularisations=[chosen.regularisation])
    assert chosen.regularisation == again.regularisation
    assert torch.equal(chosen.scores, fixed.scores)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"k": 0}, "k must be"), ({"temperature": 0.0}, "temperature"), ({"features": torch.zeros(2, 3)}, "do not fit")],
)
def test_impossible_votes(options: dict[str, object], said: str) -> None:
    train, labels = clusters(8, 0, 0.1)
    with pytest.raises(InputError, match=said):
        knn_scores(**{"train_features": train, "train_labels": labels, "features": train, "num_classes": 4, **options})


def test_impossible_probes() -> None:
    train, labels = clusters(8, 0, 0.1)
    with pytest.raises(InputError, match="two classes"):
        linear_probe(train, torch.zeros_like(labels), train, CLASSES)
    with pytest.raises(InputError, match="regularisations"):
        linear_probe(train, labels, train, CLASSES, regularisations=[0.0])
    with pytest.raises(InputError, match="do not fit"):
        linear_probe(train, labels, train[:, :3], CLASSES)
