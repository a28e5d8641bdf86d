"""Passes of a model write results into memory of earlier ones: with more blocks no more of it, and none in training."""

import pytest
import torch

import vrwkv
from vrwkv.ops.cpu_runtime import memory


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the memory that was taken to be used again."""
    taken: list[int] = []
    monkeypatch.setattr(memory._pieces, "kept", [])
    start = memory._Piece.__init__
    monkeypatch.setattr(memory._Piece, "__init__", lambda self, size: taken.append(size) or start(self, size))
    return taken


PASSES = {
    "features": lambda model, images: (model.forward_features(images),),
    "packed": lambda model, images: (model.forward_packed_features(list(images))[0],),
}


@pytest.mark.parametrize("mixer", ["bi_wkv", "bi_wkv6"])
@pytest.mark.parametrize("name", ["features", "packed"])
def test_more_blocks_take_no_more_memory(
    name: str, mixer: str, pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, counts = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)), []
    for depth in (3, 6):
        torch.manual_seed(0)
        model = vrwkv.VisionRWKV(embed_dim=64, depth=depth, img_size=48, patch_size=8, mixer=mixer).eval()
        with torch.inference_mode():
            monkeypatch.setattr(memory, "SMALLEST", 1 << 40)
            (expected,) = PASSES[name](model, images)
            assert not pieces
            monkeypatch.setattr(memory, "SMALLEST", 1000)
            (features,) = PASSES[name](model, images)
        assert torch.equal(features, expected)
        counts.append(len(pieces))
        pieces.clear()
        memory._pieces.kept.clear()
    assert counts[0] == counts[1] > 0


def test_maps_of_early_blocks_outlive_later_ones(pieces: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = vrwkv.VisionRWKV(embed_dim=64, depth=6, img_size=48, patch_size=8).eval()
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.forward_maps(images, (0, 2, 5))
        monkeypatch.setattr(memory, "SMALLEST", 1000)
        maps = model.forward_maps(images, (0, 2, 5))
    assert pieces
    for found, wanted in zip(maps, expected, strict=True):
        assert torch.equal(found, wanted)


def test_a_second_pass_takes_no_more_memory_and_leaves_the_first_ones_results(
    pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SMALLEST", 1000)
    model = vrwkv.VisionRWKV(embed_dim=64, depth=3, img_size=48, patch_size=8, final_norm=False).eval()
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        first = model.forward_features(images)
        copy, taken = first.clone(), len(pieces)
        second = model.forward_features(images + 1)
        assert torch.equal(first, copy)
        assert not torch.equal(first, second)
        assert len(pieces) - taken <= 1  # for the result that is held
        del first, second
        model.forward_features(images)
        assert len(pieces) - taken <= 2


def test_training_takes_memory_of_its_own(pieces: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SMALLEST", 1000)
    model = vrwkv.VisionRWKV(embed_dim=64, depth=2, img_size=48, patch_size=8)
    model.forward_features(torch.randn(2, 3, 48, 48)).sum().backward()
    assert not pieces
