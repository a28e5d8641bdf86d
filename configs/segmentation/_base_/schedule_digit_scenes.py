# 600 steps of 8 scenes.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=60),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=60, end=600),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=600, val_interval=300)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
