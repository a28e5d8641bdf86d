# A ResNet of about the same size in the same UperNet, to compare with.
_base_ = ["digit_scenes_vrwkv.py"]
model = dict(
    backbone=dict(
        _delete_=True,
        type="ResNetV1c",
        depth=18,
        base_channels=14,
        stem_channels=14,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type="BN", requires_grad=True),
    ),
    neck=None,
    decode_head=dict(in_channels=[14, 28, 56, 112]),
    auxiliary_head=dict(in_channels=56),
)
