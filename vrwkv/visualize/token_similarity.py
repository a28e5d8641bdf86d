"""How alike a patch is to all others, by the cosine of their features."""

import torch
from torch import Tensor

from vrwkv.errors import InputError
from vrwkv.visualize.patch_grid import checked_patch


def token_similarity(features: Tensor, patch: tuple[int, int]) -> Tensor:
    """Cosine between the features of one patch and those of every patch.

    Args:
        features: (h, w, C) of one image, as `patch_features` gives them.
        patch: (row, column); `patch_at_pixel` finds that of a click.

    Returns:
        (h, w) float32 between -1 and 1, exactly 1 at `patch` itself. A patch without features (all 0) is like none: 0.

    Raises:
        InputError: the patch lies outside the grid, or the features are not finite.
    """
    if not features.isfinite().all():
        raise InputError("features are not finite: there is no similarity to show")
    row, column = checked_patch(patch, (features.shape[0], features.shape[1]))
    # Scaled by the largest entry first: squares of tiny and of huge features stay within range.
    features = features.cpu().double()
    largest = features.abs().amax(-1, keepdim=True)
    scaled = features / torch.where(largest > 0, largest, 1.0)
    length = scaled.norm(dim=-1, keepdim=True)
    unit = scaled / torch.where(length > 0, length, 1.0)
    similarity = (unit @ unit[row, column]).clamp(-1, 1)
    if largest[row, column] > 0:
        similarity[row, column] = 1.0
    return similarity.float()
