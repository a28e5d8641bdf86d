"""k-nearest-neighbour classification of frozen features, weighted as in arXiv 1805.01978."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vrwkv.errors import InputError

_CHUNK = 1024


def knn_scores(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Score of each class for each feature vector: the sum of exp(cosine / temperature) over its k nearest neighbours.

    Neighbours are the nearest by cosine; scores are scaled so that the nearest one of all weighs 1. Queries are taken
    in chunks, so memory grows with the training set times 1,024.

    Args:
        train_features: (N, D).
        train_labels: (N,) int64.
        features: (M, D).
        num_classes: number of classes C.
        k: neighbours; at most N are used.
        temperature: smaller gives the nearest ones more say.

    Returns:
        (M, C) float32; classes without a neighbour score 0.

    Raises:
        InputError: k or temperature not positive, or shapes that do not fit.
    """
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    if not temperature > 0:
        raise InputError(f"the temperature must be positive, got {temperature}")
    if train_features.ndim != 2 or features.ndim != 2 or train_features.shape[1] != features.shape[1]:
        raise InputError(
            f"features {tuple(train_features.shape)} and {tuple(features.shape)} do not fit: "
            "(N, D) and (M, D) are needed"
        )
    if not len(train_features) or train_labels.shape != train_features.shape[:1]:
        raise InputError(f"{len(train_features)} training features do not fit {tuple(train_labels.shape)} labels")
    train = F.normalize(train_features.float(), dim=1)
    scores = torch.zeros(len(features), num_classes)
    for start in range(0, len(features), _CHUNK):
        cosines = F.normalize(features[start : start + _CHUNK].float(), dim=1) @ train.T
        nearest, indices = cosines.topk(min(k, len(train)), dim=1)
        weights = ((nearest - nearest[:, :1]) / temperature).exp()
        scores[start : start + _CHUNK].scatter_add_(1, train_labels[indices], weights)
    return scores
