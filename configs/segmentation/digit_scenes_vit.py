# A ViT of about the same size in the same UperNet, to compare with.
_base_ = ["digit_scenes_vrwkv.py"]
model = dict(
    backbone=dict(
        _delete_=True,
        type="TIMMBackbone",
        model_name="vit_tiny_patch16_224",
        features_only=True,
        pretrained=False,
        out_indices=(0, 1, 2, 3),
        img_size=128,
        patch_size=8,
        embed_dim=96,
        depth=4,
        num_heads=3,
        dynamic_img_size=True,
    ),
)
