# A light head on four maps: SegFormer's all-MLP decoder (arXiv 2105.15203) with 128 channels. Tested on whole images.
_base_ = ["upernet_vrwkv_tiny_512_160k_ade20k.py"]
model = dict(
    decode_head=dict(
        _delete_=True,
        type="SegformerHead",
        in_channels=[192, 192, 192, 192],
        in_index=[0, 1, 2, 3],
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="BN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
    test_cfg=dict(_delete_=True, mode="whole"),
)
