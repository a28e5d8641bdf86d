"""The backbones under mmsegmentation's registry.

A configuration needs one line, `custom_imports = dict(imports=["vrwkv.dense.mmseg"])`, and then
`backbone=dict(type="VisionRWKV", out_indices=(2, 5, 8, 11), ...)`, "VisionRWKV6" or "VisionRWKVAdapter". Scripts that
import `mmseg.apis` import this module first, so that mmcv-lite will do.
"""

import vrwkv.dense.mmcv_operators

# isort: split

from mmseg.registry import MODELS

import vrwkv.dense.layer_decay
import vrwkv.dense.segmentation.digit_scenes
import vrwkv.dense.segmentation.loading  # noqa: F401 - they register themselves
from vrwkv.dense.openmmlab import AdapterBackbone, PlainBackbone, PlainBackbone6


@MODELS.register_module(name="VisionRWKV")
class SegmentationRWKV(PlainBackbone):
    """`vrwkv.dense.openmmlab.PlainBackbone`: maps of the blocks `out_indices`."""


@MODELS.register_module(name="VisionRWKV6")
class SegmentationRWKV6(PlainBackbone6):
    """`SegmentationRWKV` with the mixer bi_wkv6."""


@MODELS.register_module(name="VisionRWKVAdapter")
class SegmentationAdapter(AdapterBackbone):
    """`vrwkv.dense.openmmlab.AdapterBackbone`: four maps, strides 4 to 32."""
