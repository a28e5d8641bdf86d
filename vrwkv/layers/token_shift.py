"""The token shift of an image block, as a module."""

from typing import Any

import torch
from torch import Tensor, nn

from vrwkv.ops import q_shift


class TokenShift(nn.Module):
    """Q-shift over the patch grid; class tokens, which come after the patches, stay as they are.

    Args:
        num_heads: heads inside which the channels are grouped; 1 groups over all channels.
        shift_pixel: distance in patches; 0 switches the shift off.
        channel_gamma: share of channels per direction, at most 1/4.
    """

    def __init__(self, num_heads: int = 1, shift_pixel: int = 1, channel_gamma: float = 0.25) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.shift_pixel = shift_pixel
        self.channel_gamma = channel_gamma

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, C) with T ≥ height · width -> (B, T, C)."""
        num_patches = grid[0] * grid[1]
        options: dict[str, Any] = {"num_heads": self.num_heads, "shift": self.shift_pixel, "gamma": self.channel_gamma}
        if x.shape[1] == num_patches:
            return q_shift(x, grid, **options)
        return torch.cat([q_shift(x[:, :num_patches], grid, **options), x[:, num_patches:]], dim=1)

    def extra_repr(self) -> str:
        """Settings shown when the module is printed."""
        return f"num_heads={self.num_heads}, shift_pixel={self.shift_pixel}, channel_gamma={self.channel_gamma}"
