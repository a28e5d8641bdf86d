# 160000 steps of 16 images: 8 GPUs with 2 images each. Learning rate and layer decay are the model's.
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="float16",
    loss_scale=dict(init_scale=512.0),
    optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    constructor="RWKVLayerDecayOptimizerConstructor",
    paramwise_cfg=dict(decay_rate=0.9),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160000),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=16)
