# VRWKV-T with ViT-Adapter and UperNet on ADE20K as published (arXiv 2403.02308: 43.3 mIoU).
_base_ = [
    "_base_/upernet_vrwkv_adapter_tiny.py",
    "_base_/ade20k_512.py",
    "_base_/schedule_160k.py",
    "_base_/runtime.py",
]
optim_wrapper = dict(optimizer=dict(lr=1.2e-4), paramwise_cfg=dict(decay_rate=0.95))
