# VRWKV-B with ViT-Adapter and UperNet on Cityscapes, the schedule of ADE20K; not a published recipe.
_base_ = [
    "_base_/upernet_vrwkv_adapter_base.py",
    "_base_/cityscapes_1024.py",
    "_base_/schedule_160k.py",
    "_base_/runtime.py",
]
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
    test_cfg=dict(crop_size=(512, 1024), stride=(341, 683)),
)
optim_wrapper = dict(optimizer=dict(lr=6e-5), paramwise_cfg=dict(decay_rate=0.80))
