"""Multi-scale deformable attention as exported files hold it: `grid_sample` on the map of each level.

ONNX has it as one operator (GridSample), whereas sums of table rows become a loop over all queries there.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def deform_attn_exported(
    values: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Multi-scale deformable attention; arguments as `vrwkv.ops.deform_attn`, all of one dtype."""
    batch, queries, heads = locations.shape[:3]
    head_dim = values.shape[3]
    levels = []
    start = 0
    for level, (height, width) in enumerate(shapes):
        level_values = values[:, start : start + height * width]
        start += height * width
        level_map = level_values.permute(0, 2, 3, 1).reshape(batch * heads, head_dim, height, width)
        centred = 2 * locations[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, -1, 2) - 1
        samples = F.grid_sample(level_map, centred, mode="bilinear", padding_mode="zeros", align_corners=False)
        level_weights = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, -1)
        levels.append((samples * level_weights).sum(-1))
    return sum(levels[1:], levels[0]).reshape(batch, heads * head_dim, queries).transpose(1, 2)
