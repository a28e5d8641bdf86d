"""The registration for mmdetection, under a registry of its kind: mmdetection itself needs a compiled mmcv."""

import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch

from vrwkv.layers.spatial_mix6 import SpatialMix6

pytest.importorskip("mmengine")

SMALL = {"img_size": 64, "embed_dims": 32, "depth": 4}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from mmengine.registry import Registry

    module = ModuleType("mmdet.registry")
    module.MODELS = Registry("model")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmdet", ModuleType("mmdet"))
    monkeypatch.setitem(sys.modules, "mmdet.registry", module)
    monkeypatch.delitem(sys.modules, "vrwkv.dense.mmdet", raising=False)
    import_module("vrwkv.dense.mmdet")
    yield module.MODELS  # type: ignore[attr-defined]
    sys.modules.pop("vrwkv.dense.mmdet", None)


def test_the_backbones_are_registered(registry: Any) -> None:
    x = torch.randn(1, 3, 64, 96)
    plain = registry.build({"type": "VisionRWKV", **SMALL, "hidden_rate": 2, "out_indices": (1, 3)})
    assert [tuple(each.shape) for each in plain(x)] == [(1, 32, 4, 6)] * 2
    assert isinstance(registry.build({"type": "VisionRWKV6", **SMALL}).blocks[0].spatial_mix, SpatialMix6)
    adapter = registry.build({"type": "VisionRWKVAdapter", **SMALL, "deform_num_heads": 4, "conv_inplane": 8})
    assert adapter.taps == "detection"
    assert [tuple(each.shape[2:]) for each in adapter(x)] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

    assert "RWKVLayerDecayOptimizerConstructor" in OPTIM_WRAPPER_CONSTRUCTORS


def test_without_mmdetection_one_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmdet", None)
    monkeypatch.delitem(sys.modules, "mmdet.registry", raising=False)
    monkeypatch.delitem(sys.modules, "vrwkv.dense.mmdet", raising=False)
    with pytest.raises(ImportError, match="needs mmdetection, and mmdet is not installed: pip install mmdet"):
        import_module("vrwkv.dense.mmdet")
