"""What the tests of blocks that are run as a whole share."""

import pytest
import torch
from torch import Tensor

from vrwkv.layers import Block, block

GRID = (5, 7)


def tokens(batch: int = 3, count: int = 35, dim: int = 32) -> Tensor:
    """The same random tokens each time."""
    return torch.randn(batch, count, dim, generator=torch.Generator().manual_seed(1))


def module_by_module(made: Block, x: Tensor, grid: object) -> Tensor:
    """The block's result by calling its modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "run_if_plain", lambda *_: None)
        return made(x, grid)
