# The ViT-Adapter around a small VRWKV at stride 16, and UperNet, on scenes of scanned digits.
_base_ = [
    "_base_/upernet_digit_scenes.py",
    "_base_/digit_scenes.py",
    "_base_/schedule_digit_scenes.py",
    "_base_/runtime.py",
]
model = dict(
    backbone=dict(
        type="VisionRWKVAdapter",
        img_size=128,
        embed_dim=72,
        depth=4,
        deform_num_heads=4,
        deform_ratio=0.5,
        conv_inplane=16,
    ),
    decode_head=dict(in_channels=[72, 72, 72, 72]),
    auxiliary_head=dict(in_channels=72),
)
# Checkpoints, and drawings of the last batch, at each validation.
default_hooks = dict(checkpoint=dict(interval=250), visualization=dict(interval=13))
