"""Every recipe builds what it names and learns at reduced size; the published ones say what was published."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vrwkv.dense.adapter import VisionRWKVAdapter
from vrwkv.dense.detector import RWKVMaskRCNN
from vrwkv.objectives.detection import DetectionObjective
from vrwkv.objectives.detection_config import DetectorConfig
from vrwkv.objectives.detector import create_body, create_detector
from vrwkv.training.configuration import config_to_yaml, load_config

RECIPES = Path(__file__).parents[2] / "configs" / "detection"
ALL = sorted(path.stem for path in RECIPES.glob("*.yaml"))
# Parameters of the backbone, learning rate, weight decay, drop path, heads and width of the deformable attention.
PUBLISHED = {
    "vrwkv_tiny_adapter_mask_rcnn_1x": (8_404_592, 2e-4, 0.01, 0.1, 6, 1.0),
    "vrwkv_small_adapter_mask_rcnn_1x": (29_264_528, 1e-4, 0.05, 0.2, 6, 1.0),
    "vrwkv_base_adapter_mask_rcnn_1x": (106_555_616, 1e-4, 0.05, 0.3, 12, 0.5),
    "vrwkv_large_adapter_mask_rcnn_1x": (351_894_720, 1e-4, 0.05, 0.4, 16, 0.5),
}


def recipe(name: str) -> DetectorConfig:
    return load_config(DetectorConfig, RECIPES / f"{name}.yaml")


@pytest.mark.parametrize("name", ALL)
def test_every_recipe_learns_at_reduced_size(name: str, tmp_path: Path) -> None:
    config = recipe(name)
    (tmp_path / "again.yaml").write_text(config_to_yaml(config))
    assert load_config(DetectorConfig, tmp_path / "again.yaml") == config
    small = {"embed_dim": 96, "depth": 4, "channels": 16, "box_dim": 16, "mask_channels": 16, "image_size": 64}
    small |= {"proposals": 20, "sampled_anchors": 32, "sampled_regions": 8, "min_size": (64,), "max_size": 96}
    torch.manual_seed(0)
    detector = create_detector(replace(config.model, checkpoint="", **small), ["a", "b", "c"])
    masks = torch.zeros(2, 50, 70, dtype=torch.uint8)
    masks[0, 5:25, 5:35] = masks[1, 20:50, 30:70] = 1
    batch = {
        "image": [torch.rand(3, 50, 70), torch.rand(3, 64, 48)],
        "boxes": [torch.tensor([[5.0, 5, 35, 25], [30, 20, 70, 50]]), torch.zeros(0, 4)],
        "labels": [torch.tensor([1, 3]), torch.zeros(0, dtype=torch.long)],
        "masks": [masks, torch.zeros(0, 64, 48, dtype=torch.uint8)],
    }
    loss, metrics = DetectionObjective().loss(detector.model, batch)
    assert loss.item() == pytest.approx(sum(metrics.values()).item(), rel=1e-5)
    assert len(metrics) == 5
    loss.backward()
    for key, parameter in detector.model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    outputs = detector.model.eval()(batch["image"])
    for image, output in zip(batch["image"], outputs, strict=True):
        assert output["masks"].shape == (len(output["boxes"]), 1, *image.shape[1:])
        assert (output["boxes"] >= 0).all()
        assert (output["boxes"][:, 2::2] <= image.shape[2]).all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes(name: str) -> None:
    config = recipe(name)
    parameters, lr, weight_decay, drop_path, heads, ratio = PUBLISHED[name]
    model, train, schedule = config.model, config.train, config.schedule
    with torch.device("meta"):
        body = create_body(model)
    assert isinstance(body, VisionRWKVAdapter)
    assert sum(parameter.numel() for parameter in body.parameters()) == parameters
    assert body.taps == "detection"
    assert body.interactions[0].injector.attn.num_heads == heads
    assert (model.options["deform_ratio"], model.drop_path_rate) == (ratio, drop_path)
    assert (train.epochs, config.data.batch_size, train.lr, train.precision) == (12, 16, lr, "fp32")
    assert (train.grad_clip, train.ema_decay) == (None, None)
    assert (config.optim.name, config.optim.weight_decay, config.optim.layer_decay) == ("adamw", weight_decay, 0.85)
    assert (schedule.name, schedule.milestones, schedule.decay_rate) == ("step", (8, 11), 0.1)
    assert (schedule.warmup_steps, schedule.warmup_lr / train.lr) == (500, pytest.approx(1e-3, rel=1))
    assert (model.min_size, model.max_size, model.channels) == ((800,), 1333, 256)
    assert (config.data.augmentation.horizontal_flip, config.data.augmentation.scale_jitter) == (0.5, (1.0, 1.0))


def test_published_detectors_have_torchvisions_form_and_80_classes() -> None:
    with torch.device("meta"):
        model = create_detector(
            replace(recipe("vrwkv_tiny_adapter_mask_rcnn_1x").model, checkpoint=""), [str(n) for n in range(80)]
        ).model
    assert isinstance(model, RWKVMaskRCNN)
    assert model.roi_heads.box_predictor.cls_score.out_features == 81
    assert [entry[0] for entry in model.rpn.anchor_generator.sizes] == [32, 64, 128, 256, 512]
    assert model.rpn.pre_nms_top_n() == 2000
    assert model.transform.image_mean == (0.485, 0.456, 0.406)
