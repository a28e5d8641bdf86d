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


def check_hook(made: Block, name: str, calls: int) -> None:
    """A forward hook on a submodule is called so often, changes nothing, and finds what it keeps as it was."""
    seen: list[tuple[Tensor, Tensor]] = []
    x = tokens()
    plain = made(x, GRID).detach()
    made.get_submodule(name).register_forward_hook(
        lambda *arguments: seen.append((arguments[-1], arguments[-1].clone()))
    )
    with torch.no_grad():
        torch.testing.assert_close(made(x, GRID), plain, rtol=1e-5, atol=1e-5)
    assert len(seen) == calls
    for kept, copied in seen:
        assert torch.equal(kept, copied)
