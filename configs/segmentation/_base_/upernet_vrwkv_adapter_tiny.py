# VRWKV-T with ViT-Adapter, and UperNet.
_base_ = ["upernet.py"]
model = dict(
    backbone=dict(
        type="VisionRWKVAdapter",
        img_size=224,
        embed_dim=192,
        depth=12,
        init_values=1.0,
        drop_path_rate=0.1,
        deform_num_heads=6,
        deform_ratio=1.0,
        init_cfg=dict(type="Pretrained", checkpoint="vrwkv_t_in1k_224.pth"),
    ),
    decode_head=dict(in_channels=[192, 192, 192, 192]),
    auxiliary_head=dict(in_channels=192),
)
