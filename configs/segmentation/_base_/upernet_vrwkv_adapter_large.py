# VRWKV-L with ViT-Adapter, and UperNet.
_base_ = ["upernet.py"]
model = dict(
    backbone=dict(
        type="VisionRWKVAdapter",
        img_size=192,
        embed_dim=1024,
        depth=24,
        post_norm=True,
        key_norm=True,
        init_values=1e-5,
        drop_path_rate=0.4,
        deform_num_heads=16,
        deform_ratio=0.5,
        init_cfg=dict(type="Pretrained", checkpoint="vrwkv_l_in22k_192.pth"),
    ),
    decode_head=dict(in_channels=[1024, 1024, 1024, 1024]),
    auxiliary_head=dict(in_channels=1024),
)
