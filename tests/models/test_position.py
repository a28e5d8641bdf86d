"""Position embeddings for other grids: resized once as long as their numbers stay the same, and never stale."""

import copy

import pytest
import torch
from torch import Tensor, nn

import vrwkv
from vrwkv.models import position
from vrwkv.models.position import position_for, resample_position_embedding

OLD = (3, 4)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position, "_kept", [])


@pytest.fixture
def resized(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The grids that embeddings are resized to."""
    grids: list[tuple[int, int]] = []

    def resample(embedding: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
        grids.append(new)
        return resample_position_embedding(embedding, old, new)

    monkeypatch.setattr(position, "resample_position_embedding", resample)
    return grids


def embedding() -> nn.Parameter:
    return nn.Parameter(torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(0)))


def tokens(grid: tuple[int, int]) -> Tensor:
    return torch.zeros(2, grid[0] * grid[1], 8)


def test_resized_once_for_each_grid(resized: list[tuple[int, int]]) -> None:
    own = embedding()
    with torch.inference_mode():
        for grid in ((5, 6), (6, 5), (5, 6), OLD, (6, 5)):
            expected = resample_position_embedding(own, OLD, grid)
            assert torch.equal(position_for(tokens(grid), own, OLD, grid), expected)
    assert resized == [(5, 6), (6, 5), OLD]
    with torch.no_grad():
        assert torch.equal(
            position_for(tokens((5, 6)), own, (4, 3), (5, 6)), resample_position_embedding(own, (4, 3), (5, 6))
        )
    assert len(resized) == 4


@pytest.mark.parametrize("change", ["in place", "data", "numpy", "replaced", "dtype"])
def test_changed_numbers_are_seen(change: str) -> None:
    own = embedding()
    with torch.no_grad():
        before = position_for(tokens((5, 6)), own, OLD, (5, 6)).clone()
        if change == "in place":
            own.add_(1)
        elif change == "data":
            own.data.add_(1)
        elif change == "numpy":
            own.detach().numpy()[:] += 1
        elif change == "replaced":
            own.data = own.data + 1
        else:
            own = nn.Parameter(own.bfloat16())
        after = position_for(tokens((5, 6)), own, OLD, (5, 6))
        assert torch.equal(after, resample_position_embedding(own, OLD, (5, 6)))
    assert after.dtype == own.dtype
    assert not torch.equal(after, before)


def test_few_and_small_ones_are_kept(resized: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    own = embedding()
    grids = [(5, 5 + step) for step in range(position.MOST_KEPT)]
    with torch.no_grad():
        for grid in [*grids, grids[0], (9, 9), grids[0], grids[1]]:
            position_for(tokens(grid), own, OLD, grid)
        assert resized == [*grids, (9, 9), grids[1]]
        monkeypatch.setattr(position, "LARGEST_KEPT", 13 * 8 * 4)
        for _ in range(2):
            position_for(tokens((7, 2)), own, OLD, (7, 2))
        assert resized[-2:] == [(7, 2), (7, 2)]
    assert len(position._kept) == position.MOST_KEPT


def test_gradients_and_compilers_get_a_fresh_one(resized: list[tuple[int, int]]) -> None:
    own = embedding()
    with torch.no_grad():
        position_for(tokens((5, 6)), own, OLD, (5, 6))
        compiled = torch.compile(lambda x: x + position_for(x, own, OLD, (5, 6)), backend="eager", fullgraph=True)
        compiled(tokens((5, 6)))
        assert len(resized) == 2
    position_for(tokens((5, 6)), own, OLD, (5, 6)).sum().backward()
    assert own.grad is not None
    assert len(resized) == 3


def test_models_share_nothing_but_equal_numbers() -> None:
    torch.manual_seed(0)
    model = vrwkv.VisionRWKV(embed_dim=32, depth=1, img_size=32, patch_size=8, num_classes=3).eval()
    nn.init.normal_(model.pos_embed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.pos_embed.mul_(-2)
        images = torch.randn(1, 3, 48, 40)
        first, second = model(images), other(images)
        assert torch.equal(model(images), first)
        assert torch.equal(other(images), second)
        assert not torch.allclose(first, second)
    assert model.state_dict().keys() == other.state_dict().keys()
