"""Stochastic depth that also knows packed images."""

import timm.layers
import torch
from timm.layers import register_notrace_module
from timm.layers.drop import drop_path
from torch import Tensor

from vrwkv.layers.packing import Grid, PackedGrids


@register_notrace_module
class DropPath(timm.layers.DropPath):
    """timm's stochastic depth (arXiv 1603.09382), drawn for each image also where images are packed end to end."""

    def forward(self, x: Tensor, grid: Grid) -> Tensor:  # type: ignore[override]
        """(B, T, C) or packed (1, ΣT, C) -> the same shape; in training, some images are zero, the others scaled."""
        if torch.jit.is_scripting():
            return drop_path(x, self.drop_prob, self.training, self.scale_by_keep)
        if not isinstance(grid, PackedGrids):
            return super().forward(x)
        if not self.training or not self.drop_prob:
            return x
        factors = super().forward(x.new_ones(len(grid.lengths), 1))
        lengths = grid.cu_seqlens.diff().long()
        return x * factors.repeat_interleave(lengths, dim=0, output_size=x.shape[1])
