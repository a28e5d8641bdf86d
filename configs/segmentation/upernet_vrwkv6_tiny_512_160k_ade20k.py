# VRWKV6-T without adapter, and UperNet; not a published recipe.
_base_ = ["upernet_vrwkv_tiny_512_160k_ade20k.py"]
model = dict(
    backbone=dict(
        _delete_=True,
        type="VisionRWKV6",
        img_size=224,
        embed_dim=192,
        depth=12,
        num_heads=3,
        drop_path_rate=0.1,
        out_indices=(2, 5, 8, 11),
        init_cfg=dict(type="Pretrained", checkpoint="vrwkv6_t_in1k_224.pth"),
    ),
)
