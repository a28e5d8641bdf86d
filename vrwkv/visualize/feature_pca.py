"""Patch features as colours: their first three principal components, over several images jointly."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vrwkv.errors import InputError

_COMPONENTS = 3


@dataclass(frozen=True)
class PatchComponents:
    """Principal components of patch features. The sign of a component is fixed: its largest entry is positive."""

    scores: list[Tensor]
    """(h, w, 3) float64 of each image: features less their mean, along each component."""
    directions: Tensor
    """(3, C) float64, orthonormal, the one that explains most first; rows of 0 where there are fewer than three."""
    explained: Tensor
    """(3,) share of the variance of all patches."""

    def colors(self, cut: float = 0.01) -> list[Tensor]:
        """(h, w, 3) float32 of each image, 0 to 1: red, green and blue are the components, on one scale for all images.

        Args:
            cut: share of patches at either end of a component that saturate, so that a few do not take all contrast.
        """
        every = torch.cat([scores.flatten(0, 1) for scores in self.scores])
        low, high = torch.quantile(every, torch.tensor([cut, 1 - cut], dtype=every.dtype), dim=0)
        # A component that is the same everywhere carries no colour: it stays in the middle.
        flat = high - low <= 1e-9 * every.abs().max().clamp(min=torch.finfo(every.dtype).tiny)
        span = torch.where(flat, 1.0, high - low)
        colors = [torch.where(flat, 0.5, (scores - low) / span).clamp(0, 1) for scores in self.scores]
        return [color.float() for color in colors]


def feature_pca(features: Sequence[Tensor]) -> PatchComponents:
    """Principal components of the patches of all images together, so that a colour means the same in each of them.

    Args:
        features: (h, w, C) of each image, as `patch_features` gives them; grids may differ, C may not.

    Raises:
        InputError: no images, or features that are not finite or of different widths.
    """
    if not features:
        raise InputError("no features given: principal components need at least one image")
    if len({tensor.shape[-1] for tensor in features}) > 1:
        raise InputError("features of different widths have no principal components in common")
    images = [tensor.detach().cpu().double() for tensor in features]
    every = torch.cat([image.flatten(0, 1) for image in images])
    if not every.isfinite().all():
        raise InputError("features are not finite: there are no principal components to show")
    mean = every.mean(0)
    _, singular, rows = torch.linalg.svd(every - mean, full_matrices=False)
    directions = every.new_zeros(_COMPONENTS, every.shape[1])
    directions[: len(rows)] = rows[:_COMPONENTS]
    # A component and its opposite fit equally well, and which one comes out depends on the library.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * torch.where(largest < 0, -1.0, 1.0)
    variance = singular.square()
    explained = every.new_zeros(_COMPONENTS)
    explained[: len(rows)] = (variance / variance.sum().clamp(min=torch.finfo(variance.dtype).tiny))[:_COMPONENTS]
    return PatchComponents([(image - mean) @ directions.T for image in images], directions, explained)
