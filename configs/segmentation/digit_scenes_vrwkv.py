# A small VRWKV and UperNet on scenes of scanned digits: a few minutes on 2 cores, no download.
_base_ = [
    "_base_/upernet_digit_scenes.py",
    "_base_/digit_scenes.py",
    "_base_/schedule_digit_scenes.py",
    "_base_/runtime.py",
]
model = dict(
    backbone=dict(type="VisionRWKV", img_size=128, patch_size=8, embed_dim=96, depth=4, out_indices=(0, 1, 2, 3)),
    neck=dict(type="Feature2Pyramid", embed_dim=96, rescales=[2, 1, 0.5, 0.25], norm_cfg=dict(type="BN")),
    decode_head=dict(in_channels=[96, 96, 96, 96]),
    auxiliary_head=dict(in_channels=96),
)
# Checkpoints, and drawings of the last batch, at each validation.
default_hooks = dict(checkpoint=dict(interval=250), visualization=dict(interval=13))
