"""The token shifts of image and text blocks, as modules that also mix what they shift."""

from typing import Any

import torch
from torch import Tensor, nn

from vrwkv.layers.packing import Grid
from vrwkv.layers.scriptable_ops import shift_mix
from vrwkv.ops import bi_shift, bi_shift_mix, q_shift


def shares_of_shifted(own_shares: list[Tensor]) -> Tensor:
    """What is left for the shifted token where `own_shares` (C,) weigh the token itself: (M, C)."""
    return torch.stack(own_shares).neg_().add_(1)


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

    @torch.jit.ignore
    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, C) with T ≥ height · width -> (B, T, C)."""
        num_patches = grid[0] * grid[1]
        options: dict[str, Any] = {"num_heads": self.num_heads, "shift": self.shift_pixel, "gamma": self.channel_gamma}
        if x.shape[1] == num_patches:
            return q_shift(x, grid, **options)
        return torch.cat([q_shift(x[:, :num_patches], grid, **options), x[:, num_patches:]], dim=1)

    def mix(
        self,
        x: Tensor,
        share: Tensor,
        grid: Grid,
        correction: Tensor | None = None,
        norm_weight: Tensor | None = None,
        norm_bias: Tensor | None = None,
        norm_eps: float = 1e-5,
        backend: str | None = None,
    ) -> list[Tensor]:
        """Mixtures of `x` with its shifted self in one pass: x (B, T, C), share (M, C) -> M times (B, T, C).

        Arguments as in `vrwkv.ops.shift_mix`; with `PackedGrids`, each image is shifted over its own grid.
        """
        return shift_mix(
            x,
            share,
            grid,
            correction,
            norm_weight,
            norm_bias,
            norm_eps,
            self.num_heads,
            self.shift_pixel,
            self.channel_gamma,
            backend,
        )

    def extra_repr(self) -> str:
        """Settings shown when the module is printed."""
        return f"num_heads={self.num_heads}, shift_pixel={self.shift_pixel}, channel_gamma={self.channel_gamma}"


class SequenceShift(nn.Module):
    """Shift along text: half of each head looks one token back, the other half one ahead.

    Args:
        num_heads: heads that the channels are divided into.
    """

    def __init__(self, num_heads: int = 1) -> None:
        super().__init__()
        self.num_heads = num_heads

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); the grid of an image block has no meaning here."""
        return bi_shift(x, num_heads=self.num_heads)

    def mix(
        self,
        x: Tensor,
        share: Tensor,
        grid: Grid | None = None,
        *,
        correction: Tensor | None = None,
        backend: str | None = None,
    ) -> tuple[Tensor, ...]:
        """Mixtures of `x` with its shifted self: x (B, T, C), share (M, C) -> M times (B, T, C)."""
        return bi_shift_mix(x, share, correction=correction, num_heads=self.num_heads, backend=backend)

    def extra_repr(self) -> str:
        """Settings shown when the module is printed."""
        return f"num_heads={self.num_heads}"
