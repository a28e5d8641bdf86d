# VRWKV-L with ViT-Adapter and UperNet on ADE20K as published (arXiv 2403.02308: 53.5 mIoU).
_base_ = [
    "_base_/upernet_vrwkv_adapter_large.py",
    "_base_/ade20k_512.py",
    "_base_/schedule_160k.py",
    "_base_/runtime.py",
]
optim_wrapper = dict(optimizer=dict(lr=6e-5), paramwise_cfg=dict(decay_rate=0.90))
