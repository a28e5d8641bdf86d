"""Images cut into patches, one row of pixels for each; what the patch embedding multiplies with its weight."""

import os

import torch
from torch import Tensor

from vrwkv.ops.cpu_runtime.eager import records_gradient, runs_eagerly
from vrwkv.ops.cpu_runtime.refusal import refuse_cpu
from vrwkv.ops.dispatch import ALLOW_CPU, ENVIRONMENT_VARIABLE
from vrwkv.ops.exporting import exporting

__all__ = ["extract_patches"]

LINE_BYTES = 64  # what the compiled loop copies at once


def extract_patches(images: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Non-overlapping patches in raster order, flattened channel by channel as a convolution's weight is.

    Args:
        images: (B, channels, height · P, width · Q).
        patch_size: (P, Q) pixels.

    Returns:
        (B, height · width, channels · P · Q), contiguous.
    """
    patch_height, patch_width = patch_size
    height, width = images.shape[2] // patch_height, images.shape[3] // patch_width
    if (
        patch_width * images.element_size() % LINE_BYTES == 0
        and images.dtype in (torch.float32, torch.bfloat16)
        and refuse_cpu(images) is None
        and os.environ.get(ENVIRONMENT_VARIABLE) in ALLOW_CPU
        and not exporting()
        and runs_eagerly(images)
        and not records_gradient(images)
    ):
        from vrwkv.ops.patches.cpu import extract_patches_cpu

        return extract_patches_cpu(images.contiguous(), patch_size)
    patches = images.unflatten(3, (width, patch_width)).unflatten(2, (height, patch_height))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
