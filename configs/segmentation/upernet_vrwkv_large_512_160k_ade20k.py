# Without the adapter: VRWKV-L, its maps after each quarter of the blocks rescaled to strides 4 to 32, and UperNet.
_base_ = ["upernet_vrwkv_adapter_large_512_160k_ade20k.py"]
model = dict(
    backbone=dict(
        _delete_=True,
        type="VisionRWKV",
        img_size=192,
        embed_dim=1024,
        depth=24,
        post_norm=True,
        key_norm=True,
        init_values=1e-5,
        drop_path_rate=0.4,
        out_indices=(5, 11, 17, 23),
        init_cfg=dict(type="Pretrained", checkpoint="vrwkv_l_in22k_192.pth"),
    ),
    neck=dict(type="Feature2Pyramid", embed_dim=1024, rescales=[4, 2, 1, 0.5], norm_cfg=dict(type="BN")),
)
