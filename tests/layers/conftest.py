"""Fixtures of the tests of layers."""

import pytest

from vrwkv.layers import eager_block


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The grids of blocks that were run as a whole."""
    found: list[tuple[int, int]] = []
    run = eager_block.run_block
    monkeypatch.setattr(eager_block, "run_block", lambda parts, x, grid: found.append(grid) or run(parts, x, grid))
    return found
