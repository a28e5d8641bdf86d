"""Detectors and their weights: layers of the layer decay, what a checkpoint fills, what files say about themselves."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import vrwkv
from vrwkv.errors import InputError
from vrwkv.models import to_published
from vrwkv.objectives.detection_config import DetectorModelConfig
from vrwkv.objectives.detector import create_detector, load_detector, save_metadata
from vrwkv.training.config import OptimConfig
from vrwkv.training.optimizer import parameter_groups
from vrwkv.training.weights import save_weights

SMALL = DetectorModelConfig(
    adapter=False, image_size=64, embed_dim=32, depth=2, channels=8, box_dim=8, mask_channels=8, min_size=(64,)
)
ADAPTER = replace(SMALL, adapter=True, depth=4, options={"deform_num_heads": 4, "conv_inplane": 8})


def test_layer_decay_follows_the_blocks_of_the_backbone() -> None:
    model = create_detector(ADAPTER, ["a"]).model
    groups = parameter_groups(model, OptimConfig(weight_decay=0.05, layer_decay=0.5))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found.keys() == set(names.values())
    body = "backbone.body."
    assert found[f"{body}pos_embed"] == (0.5**5, 0.05)
    assert found[f"{body}patch_embed.proj.bias"] == (0.5**5, 0.0)
    assert found[f"{body}blocks.0.spatial_mix.key.weight"] == (0.5**4, 0.05)
    assert found[f"{body}blocks.3.spatial_mix.decay"] == (0.5, 0.0)
    assert found[f"{body}spm.stem.0.weight"] == (1.0, 0.05)
    assert found["backbone.fpn.inner_blocks.0.0.weight"] == (1.0, 0.05)
    assert found["roi_heads.box_head.fc6.weight"] == (1.0, 0.05)


@pytest.mark.parametrize("config", [SMALL, ADAPTER], ids=["plain", "adapter"])
def test_a_published_classifier_fills_the_backbone(config: DetectorModelConfig, tmp_path: Path) -> None:
    source = vrwkv.VisionRWKV(img_size=96, embed_dim=32, depth=config.depth, num_classes=7)
    nn.init.normal_(source.pos_embed)
    torch.save({"state_dict": to_published(source)}, tmp_path / "file.pth")
    detector = create_detector(replace(config, checkpoint=str(tmp_path / "file.pth")), ["a"])
    body = detector.model.backbone.body
    assert torch.equal(body.blocks[1].spatial_mix.key.weight, source.blocks[1].spatial_mix.key.weight)
    assert body.pos_embed.shape == (1, 16, 32)
    assert detector.starting_point == f"the backbone of {tmp_path / 'file.pth'}"
    with pytest.raises(InputError, match="of another shape"):
        create_detector(replace(config, checkpoint=str(tmp_path / "file.pth"), embed_dim=64), ["a"])


def test_a_saved_detector_says_all_about_itself_and_starts_another(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = create_detector(SMALL, ["cat", "dog"])
    save_weights(detector.model, tmp_path / "model.safetensors", save_metadata(detector))
    loaded = load_detector(tmp_path)
    assert loaded.config == SMALL
    assert loaded.class_names == ["cat", "dog"]
    image = [torch.rand(3, 64, 64)]
    for name, value in detector.model.eval()(image)[0].items():
        assert torch.equal(loaded.model(image)[0][name], value)

    other = create_detector(replace(SMALL, checkpoint=str(tmp_path)), ["cat", "dog", "cow"])
    before, after = detector.model.state_dict(), other.model.state_dict()
    fresh = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name.split(".")[1] for name in fresh} == {"box_predictor", "mask_predictor"}
    assert other.starting_point.endswith("with fresh predictors")
    same = create_detector(replace(SMALL, checkpoint=str(tmp_path)), ["a", "b"])
    assert all(torch.equal(value, before[name]) for name, value in same.model.state_dict().items())
    with pytest.raises(InputError, match="of another shape"):
        create_detector(replace(SMALL, checkpoint=str(tmp_path), channels=16), ["cat", "dog"])


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    save_weights(nn.Linear(2, 2), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="does not hold a detector"):
        load_detector(tmp_path)


def test_boxes_without_masks_and_recomputed_blocks() -> None:
    model = create_detector(replace(SMALL, masks=False), ["a"]).model
    model.set_grad_checkpointing(True)
    target = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}
    losses = model([torch.rand(3, 64, 64)], [target])
    assert "loss_mask" not in losses
    sum(losses.values()).backward()
    assert model.backbone.body.blocks[0].spatial_mix.key.weight.grad.abs().max() > 0
    assert "masks" not in model.eval()([torch.rand(3, 64, 64)])[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": {"embed_dimz": 3}}, "embed_dimz"),
        ({"adapter": True, "patch_size": 8}, "patch_size 16"),
        ({"embed_dim": 30}, "multiple of 4"),
        ({"options": {"deform_num_heads": 4}}, "deform_num_heads"),
    ],
)
def test_arguments_that_the_backbone_refuses(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_detector(replace(SMALL, **options), ["a"])
