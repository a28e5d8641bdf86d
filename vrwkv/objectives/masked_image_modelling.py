"""Masked image modelling: the mean squared error of the pixels that were hidden."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vrwkv.ops import extract_patches

# Of MAE's released code; keeps patches of one colour finite.
VARIANCE_EPSILON = 1e-6


def patch_targets(images: Tensor, patch_size: tuple[int, int], normalise: bool) -> Tensor:
    """What a masked autoencoder is to paint: the pixels of every patch.

    Args:
        images: (B, channels, H, W), sides that are multiples of the patch's.
        patch_size: (P, Q) pixels.
        normalise: subtract each patch's own mean and divide by its own deviation (MAE's norm_pix_loss).

    Returns:
        (B, T, channels · P · Q) float32.
    """
    patches = extract_patches(images.float(), patch_size)
    if not normalise:
        return patches
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + VARIANCE_EPSILON).sqrt()


def hidden_patch_loss(prediction: Tensor, targets: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over the hidden patches: prediction, targets (B, T, D), hidden (B, T) bool -> 0-dim."""
    error = (prediction.float() - targets).square().mean(-1)
    return (error * hidden).sum() / hidden.sum()


class MaskedImageObjective:
    """The loss of a `MaskedAutoencoder` over batches with "image" (B, channels, H, W).

    The global generators decide what is hidden, so in the training loop it is a function of seed, step and process.

    Args:
        patch_size: (P, Q) pixels.
        normalise_pixels: compare each patch with its pixels normalised by their own mean and deviation.
    """

    def __init__(self, patch_size: tuple[int, int], normalise_pixels: bool = True) -> None:
        self.patch_size, self.normalise_pixels = patch_size, normalise_pixels

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the hidden patches' pixels, and no further metrics."""
        outputs = model(batch["image"])
        with torch.autocast(batch["image"].device.type, enabled=False):
            targets = patch_targets(batch["image"], self.patch_size, self.normalise_pixels)
            return hidden_patch_loss(outputs["prediction"], targets, outputs["hidden"]), {}

    def after_step(self, model: nn.Module) -> None:
        """Nothing."""
