# VRWKV-S with ViT-Adapter, and UperNet.
_base_ = ["upernet.py"]
model = dict(
    backbone=dict(
        type="VisionRWKVAdapter",
        img_size=224,
        embed_dim=384,
        depth=12,
        post_norm=True,
        init_values=1e-5,
        drop_path_rate=0.2,
        deform_num_heads=6,
        deform_ratio=1.0,
        init_cfg=dict(type="Pretrained", checkpoint="vrwkv_s_in1k_224.pth"),
    ),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
