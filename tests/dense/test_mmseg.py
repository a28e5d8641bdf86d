"""The backbones in mmsegmentation configurations: built, trained a step, frozen, filled with published weights."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vrwkv
from vrwkv.errors import InputError
from vrwkv.models import to_published

pytest.importorskip("mmseg")
pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = {"img_size": 64, "embed_dims": 32, "depth": 4}
BACKBONES = {
    "plain": {"type": "VisionRWKV", **SMALL, "hidden_rate": 4, "out_indices": (0, 1, 2, 3)},
    "v6": {"type": "VisionRWKV6", **SMALL, "out_indices": (0, 1, 2, -1)},
    "adapter": {"type": "VisionRWKVAdapter", **SMALL, "deform_num_heads": 4, "conv_inplane": 8},
}


def build(name: str, **options: Any) -> nn.Module:
    import_module("vrwkv.dense.mmseg")
    from mmseg.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build({**BACKBONES[name], **options})


def segmentor(name: str, **options: Any) -> nn.Module:
    import_module("vrwkv.dense.mmseg")
    import_module("mmseg.models")
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    head = {"type": "UPerHead", "in_channels": [32] * 4, "in_index": [0, 1, 2, 3], "pool_scales": (1, 2), "channels": 8}
    head |= {"num_classes": 5, "norm_cfg": {"type": "BN"}, "align_corners": False}
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(
            ConfigDict(
                type="EncoderDecoder",
                backbone={**BACKBONES[name], **options},
                decode_head={**head, "loss_decode": {"type": "CrossEntropyLoss"}},
                test_cfg={"mode": "whole"},
            )
        )


@pytest.mark.parametrize("name", BACKBONES)
def test_a_segmentor_trains(name: str) -> None:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    model = segmentor(name, with_cp=True)
    model.init_weights()
    model.train()
    targets = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, 64, 64)))) for _ in range(2)]
    losses = model.loss(torch.randn(2, 3, 64, 64), targets)
    losses["decode.loss_ce"].backward()
    for key, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None, key
    model.eval()
    logits = model.encode_decode(torch.randn(1, 3, 50, 70), [{"img_shape": (50, 70)}])
    assert logits.shape == (1, 5, 50, 70)


def test_maps_are_those_of_the_model_itself() -> None:
    backbone = build("plain").eval()
    plain = vrwkv.VisionRWKV(img_size=64, embed_dim=32, depth=4, num_classes=0).eval()
    plain.load_state_dict(backbone.state_dict())
    x = torch.randn(1, 3, 70, 40)
    for actual, expected in zip(backbone(x), plain.forward_maps(x, (0, 1, 2, 3)), strict=True):
        assert torch.equal(actual, expected)
    assert build("plain", out_indices=-1)(x)[0].shape == (1, 32, 5, 3)
    assert [each.shape[2] for each in build("adapter", out_indices=(1, 3))(x)] == [9, 3]


@pytest.mark.parametrize("name", ["plain", "adapter"])
def test_frozen_stages_and_norms_keep_their_state(name: str) -> None:
    backbone = build(name, frozen_stages=2, norm_eval=True).train()
    frozen = {key for key, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert {key.split(".")[0] for key in frozen} == {"patch_embed", "pos_embed", "norm_pre", "blocks"}
    assert {key.split(".")[1] for key in frozen if key.startswith("blocks")} == {"0", "1"}
    assert not backbone.blocks[1].training
    assert backbone.blocks[2].training
    assert not any(module.training for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))


@pytest.mark.parametrize("name", ["plain", "adapter"])
@pytest.mark.parametrize("kind", ["classifier", "segmentor"])
def test_init_cfg_reads_published_weights(name: str, kind: str, tmp_path: Path) -> None:
    source = vrwkv.VisionRWKV(img_size=96, embed_dim=32, depth=4, num_classes=7)
    nn.init.normal_(source.pos_embed)
    weights = {("backbone." if kind == "segmentor" else "") + key: value for key, value in to_published(source).items()}
    if kind == "segmentor":
        weights["decode_head.conv_seg.weight"] = torch.zeros(5, 8, 1, 1)
        weights = {key: value for key, value in weights.items() if ".head" not in key}
    torch.save({"state_dict": weights, "meta": {}}, tmp_path / "file.pth")
    model = segmentor(name, init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "file.pth")}, init_values=1.0)
    model.init_weights()
    assert torch.equal(model.backbone.blocks[3].spatial_mix.key.weight, source.blocks[3].spatial_mix.key.weight)
    assert torch.equal(model.backbone.blocks[0].ls1.gamma, torch.ones(32))
    assert model.backbone.pos_embed.shape == (1, 16, 32)
    assert model.backbone.pos_embed.any()


def test_init_cfg_refuses_another_size(tmp_path: Path) -> None:
    source = vrwkv.VisionRWKV(img_size=64, embed_dim=48, depth=4, num_classes=0)
    torch.save(to_published(source), tmp_path / "file.pth")
    backbone = build("plain", pretrained=str(tmp_path / "file.pth"))
    with pytest.raises(InputError, match=r"of another shape: .*blocks\.0"):
        backbone.init_weights()
    with pytest.raises(InputError, match=r"no weights whose names begin with 'encoder\.'"):
        build(
            "plain", init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "file.pth"), "prefix": "encoder."}
        ).init_weights()


def test_layer_decay_follows_the_blocks() -> None:
    from mmengine.optim import build_optim_wrapper

    model = segmentor("adapter", frozen_stages=-1)
    wrapper = build_optim_wrapper(
        model,
        {
            "type": "OptimWrapper",
            "optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.01},
            "constructor": "RWKVLayerDecayOptimizerConstructor",
            "paramwise_cfg": {"decay_rate": 0.5},
        },
    )
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
    }
    assert found.keys() == set(names.values())
    assert found["backbone.pos_embed"] == (1e-3 * 0.5**5, 0.01)
    assert found["backbone.patch_embed.proj.bias"] == (1e-3 * 0.5**5, 0.0)
    assert found["backbone.blocks.0.spatial_mix.key.weight"] == (1e-3 * 0.5**4, 0.01)
    assert found["backbone.blocks.3.spatial_mix.decay"] == (1e-3 * 0.5, 0.0)
    assert found["backbone.spm.stem.0.weight"] == (1e-3, 0.01)
    assert found["decode_head.conv_seg.weight"] == (1e-3, 0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dimz": 3}, "no argument 'embed_dimz'; did you mean 'embed_dim"),
        ({"frozen_stages": 5}, "between -1 and 4"),
        ({"init_cfg": {"type": "TruncNormal"}}, "type 'Pretrained'"),
        ({"init_cfg": {"type": "Pretrained", "checkpoint": "a"}, "pretrained": "b"}, "not both"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("plain", **options)


def test_one_line_of_configuration_is_enough_and_compiled_operators_say_what_they_are() -> None:
    code = """
from mmengine.config import Config
cfg = Config(dict(custom_imports=dict(imports=["vrwkv.dense.mmseg"], allow_failed_imports=False)))
from mmengine.utils import import_modules_from_strings
import_modules_from_strings(**cfg.custom_imports)
import torch, mmseg.apis
from mmcv.ops import point_sample, sigmoid_focal_loss
assert point_sample(torch.ones(1, 2, 4, 4), torch.full((1, 3, 2), 0.5)).shape == (1, 2, 3)
from vrwkv.dense.mmcv_operators import answer_for_compiled_operators
if answer_for_compiled_operators():
    try:
        sigmoid_focal_loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), 2.0, 0.25, None, "mean")
    except RuntimeError as error:
        assert "compiled operator sigmoid_focal_loss_forward" in str(error), error
    else:
        raise AssertionError("a compiled operator was answered")
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]
