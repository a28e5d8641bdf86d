"""Blocks of a model write large results into memory of earlier ones: with more blocks no more of it, and no others."""

import pytest
import torch

import vrwkv
from vrwkv.ops.cpu_runtime import memory


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the memory that was taken to be used again."""
    taken: list[int] = []
    start = memory._Piece.__init__
    monkeypatch.setattr(memory._Piece, "__init__", lambda self, size: taken.append(size) or start(self, size))
    return taken


@pytest.mark.parametrize("mixer", ["bi_wkv", "bi_wkv6"])
def test_more_blocks_take_no_more_memory(mixer: str, pieces: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    images, counts = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)), []
    for depth in (3, 6):
        torch.manual_seed(0)
        model = vrwkv.VisionRWKV(embed_dim=64, depth=depth, img_size=48, patch_size=8, mixer=mixer).eval()
        with torch.inference_mode():
            monkeypatch.setattr(memory, "LARGEST", 1 << 40)
            expected = model.forward_features(images)
            assert not pieces
            monkeypatch.setattr(memory, "LARGEST", 1000)
            features = model.forward_features(images)
        assert torch.equal(features, expected)
        counts.append(len(pieces))
        pieces.clear()
    assert counts[0] == counts[1] > 0


def test_training_takes_memory_of_its_own(pieces: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LARGEST", 1000)
    model = vrwkv.VisionRWKV(embed_dim=64, depth=2, img_size=48, patch_size=8)
    model.forward_features(torch.randn(2, 3, 48, 48)).sum().backward()
    assert not pieces
