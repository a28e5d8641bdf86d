# A light head on one map: VRWKV-T at stride 16, three convolutions of 128 channels. Tested on whole images.
_base_ = ["upernet_vrwkv_tiny_512_160k_ade20k.py"]
model = dict(
    backbone=dict(out_indices=(11,)),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type="FCNHead",
        in_channels=192,
        in_index=0,
        channels=128,
        num_convs=2,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="BN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
    test_cfg=dict(_delete_=True, mode="whole"),
)
