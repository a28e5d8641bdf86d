# A narrow UperNet with eleven classes; predictions from whole images.
_base_ = ["upernet.py"]
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    decode_head=dict(channels=48, num_classes=11),
    auxiliary_head=dict(channels=48, num_classes=11),
    test_cfg=dict(_delete_=True, mode="whole"),
)
