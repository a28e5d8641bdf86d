"""Training and testing mmsegmentation's segmentors with mmengine's Runner; needs the extra `seg`."""

import vrwkv.dense.mmcv_operators  # noqa: F401 - whatever of mmseg is imported below, mmcv-lite has to do
