"""Images of different sizes packed end to end (cu_seqlens), unpacked into a padded batch and packed again."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where each packed token stands in a padded batch of N sequences of at most S tokens.

    Attributes:
        lengths: (N,) tokens of each sequence, int64.
        index: (N, S) position in the packed sequence of each padded slot; 0 where the slot is padding.
        valid: (N, S) bool, False where the slot is padding.
    """

    lengths: Tensor
    index: Tensor
    valid: Tensor

    @staticmethod
    def from_boundaries(cu_seqlens: Tensor) -> "Packing":
        """From (N+1,) boundaries."""
        boundaries = cu_seqlens.long()
        lengths = boundaries.diff()
        offset = torch.arange(int(lengths.max()), device=cu_seqlens.device)
        valid = offset < lengths[:, None]
        return Packing(lengths, torch.where(valid, boundaries[:-1, None] + offset, 0), valid)

    def unpack(self, packed: Tensor, padding: float) -> Tensor:
        """(1, T, …) -> (N, S, …), with `padding` in the empty slots."""
        padded = packed[0, self.index]
        valid = self.valid.reshape(self.valid.shape + (1,) * (padded.ndim - 2))
        return torch.where(valid, padded, padding)

    def pack(self, padded: Tensor) -> Tensor:
        """(N, S, …) -> (1, T, …)."""
        return padded[self.valid].unsqueeze(0)
