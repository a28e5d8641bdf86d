"""The backbones under mmdetection's registry. Untested with mmdetection itself, which needs a compiled mmcv.

A configuration needs one line, `custom_imports = dict(imports=["vrwkv.dense.mmdet"])`, and then
`backbone=dict(type="VisionRWKVAdapter", ...)` with the neck FPN, or "VisionRWKV" or "VisionRWKV6", whose maps have one
stride, with a neck that makes others of them. The layer decay of the released recipes is the optimiser's
`constructor="RWKVLayerDecayOptimizerConstructor"`.
"""

from typing import Any

try:
    from mmdet.registry import MODELS
except ModuleNotFoundError as error:
    missing = str(error.name).split(".")[0]
    raise ImportError(
        f"vrwkv.dense.mmdet needs mmdetection, and {missing} is not installed: pip install mmdet mmengine, and the "
        "full mmcv (not mmcv-lite) for your torch and CUDA; vrwkv.dense.detector needs neither",
        name=error.name,
    ) from None

import vrwkv.dense.layer_decay  # noqa: F401 - registers itself
from vrwkv.dense.openmmlab import AdapterBackbone, PlainBackbone, PlainBackbone6


@MODELS.register_module(name="VisionRWKV")
class DetectionRWKV(PlainBackbone):
    """`vrwkv.dense.openmmlab.PlainBackbone`: maps of the blocks `out_indices`."""


@MODELS.register_module(name="VisionRWKV6")
class DetectionRWKV6(PlainBackbone6):
    """`DetectionRWKV` with the mixer bi_wkv6."""


@MODELS.register_module(name="VisionRWKVAdapter")
class DetectionAdapter(AdapterBackbone):
    """`vrwkv.dense.openmmlab.AdapterBackbone` with taps="detection": four maps, strides 4 to 32."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"taps": "detection", **kwargs})
