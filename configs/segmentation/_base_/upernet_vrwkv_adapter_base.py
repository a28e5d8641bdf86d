# VRWKV-B with ViT-Adapter, and UperNet.
_base_ = ["upernet.py"]
model = dict(
    backbone=dict(
        type="VisionRWKVAdapter",
        img_size=224,
        embed_dim=768,
        depth=12,
        post_norm=True,
        init_values=1e-5,
        drop_path_rate=0.3,
        deform_num_heads=12,
        deform_ratio=0.5,
        init_cfg=dict(type="Pretrained", checkpoint="vrwkv_b_in1k_224.pth"),
    ),
    decode_head=dict(in_channels=[768, 768, 768, 768]),
    auxiliary_head=dict(in_channels=768),
)
