# Without the adapter: VRWKV-B, its maps after each quarter of the blocks rescaled to strides 4 to 32, and UperNet.
_base_ = ["upernet_vrwkv_adapter_base_512_160k_ade20k.py"]
model = dict(
    backbone=dict(
        _delete_=True,
        type="VisionRWKV",
        img_size=224,
        embed_dim=768,
        depth=12,
        post_norm=True,
        init_values=1e-5,
        drop_path_rate=0.3,
        out_indices=(2, 5, 8, 11),
        init_cfg=dict(type="Pretrained", checkpoint="vrwkv_b_in1k_224.pth"),
    ),
    neck=dict(type="Feature2Pyramid", embed_dim=768, rescales=[4, 2, 1, 0.5], norm_cfg=dict(type="BN")),
)
