"""Images of different sizes end to end in one sequence, so that a batch needs neither resizing nor padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedGrids:
    """Where each image of a packed sequence (1, ΣT, C) lies; the layers take it in place of one grid.

    Attributes:
        grids: (height, width) in patches of each of N images.
        lengths: tokens T of each image; more than height · width where class tokens come after its patches.
        cu_seqlens: (N + 1,) int32 boundaries of the images, from 0 to ΣT, on the device of the tokens.
    """

    grids: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    cu_seqlens: Tensor

    def split(self, tokens: Tensor, dim: int = 1) -> tuple[Tensor, ...]:
        """The part of each image, as views: by default (1, ΣT, C) -> N times (1, T, C)."""
        return tokens.split(self.lengths, dim)


if TYPE_CHECKING:
    Grid = tuple[int, int] | PackedGrids
else:
    # What TorchScript reads in the layers' signatures: scripted layers take batches only.
    Grid = tuple[int, int]


def pack(images: Sequence[Tensor], grids: Sequence[tuple[int, int]]) -> tuple[Tensor, PackedGrids]:
    """N times (1, T, C) tokens and the grid of each -> (1, ΣT, C) and where each image lies in it."""
    lengths = tuple(tokens.shape[1] for tokens in images)
    boundaries = torch.tensor([0, *lengths]).cumsum(0).to(images[0].device, torch.int32)
    return torch.cat(list(images), dim=1), PackedGrids(tuple(grids), lengths, boundaries)


def boundaries(grid: Grid) -> Tensor | None:
    """`cu_seqlens` for the ops: None where one grid holds for the whole batch."""
    if torch.jit.is_scripting():
        return None
    return grid.cu_seqlens if isinstance(grid, PackedGrids) else None
