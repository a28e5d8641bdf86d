"""Our towers through open_clip's own functions, and open_clip's own models beside them."""

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import open_clip.factory
import pytest
import timm
import torch
from PIL import Image
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import rwkv_clip
from rwkv_clip import TextTower
from vrwkv import InputError, VisionRWKV
from vrwkv.training.weights import save_weights

TINY: dict[str, Any] = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {
        "timm_model_name": "rwkv_clip_base_patch32_224",
        "timm_pool": "avg",
        "timm_proj": "none",
        "image_size": 32,
        "timm_model_kwargs": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0},
    },
    "text_cfg": {"rwkv_mixer": "rwkv6_bi", "context_length": 12, "width": 32, "layers": 3, "heads": 2},
}
OWN_VIT: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A small model's name, known to open_clip while the test runs."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "rwkv-tiny", copy.deepcopy(TINY))
    return "rwkv-tiny"


@pytest.fixture
def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.logit_scale.fill_(2.0)
    return model


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 32, 32)


@pytest.fixture
def ids() -> Tensor:
    torch.manual_seed(2)
    return torch.randint(1, 40000, (2, 12))


def test_names_are_listed() -> None:
    assert {"RWKV-CLIP-B-32", "RWKV-CLIP-B-16", "ViT-B-32"} <= set(open_clip.list_models())


def test_registering_again_changes_nothing() -> None:
    before = open_clip.model._build_text_tower, open_clip.model._build_vision_tower
    rwkv_clip.open_clip_adapter.register()
    assert (open_clip.model._build_text_tower, open_clip.model._build_vision_tower) == before


def test_b32_and_its_preprocessing() -> None:
    """The README's three lines, with the full model (its random weights cost a second)."""
    model, train, preprocess = open_clip.create_model_and_transforms("RWKV-CLIP-B-32")
    assert isinstance(model.visual.trunk, VisionRWKV)
    assert isinstance(model.text, TextTower)
    assert model.logit_scale.item() == pytest.approx(2.6593, abs=1e-4)
    picture = Image.new("RGB", (300, 250), (122, 116, 104))
    assert preprocess(picture).shape == train(picture).shape == (3, 224, 224)
    assert preprocess(picture).abs().max() < 0.02  # OpenAI's means
    weight = model.visual.trunk.blocks[3].spatial_mix.key.weight
    assert weight.abs().max() <= 1 / 640**0.5
    assert not model.visual.trunk.pos_embed.any()
    assert "visual.trunk.pos_embed" in model.no_weight_decay()
    tokenizer = open_clip.get_tokenizer("RWKV-CLIP-B-32")
    ids = tokenizer(["a photo of a dog.", "two words"])
    assert ids.shape == (2, 77)
    assert ids[0, :9].tolist() == [49406, 320, 1125, 539, 320, 1929, 269, 49407, 0]
    with torch.no_grad():
        assert model.encode_text(ids, normalize=True).norm(dim=1).tolist() == pytest.approx([1, 1])


def test_encoding(model: nn.Module, images: Tensor, ids: Tensor) -> None:
    image_features, text_features = model.encode_image(images), model.encode_text(ids)
    torch.testing.assert_close(image_features, model.visual.trunk.forward_features(images).mean(1))
    torch.testing.assert_close(text_features, model.text(ids))
    for encode, inputs, plain in (
        (model.encode_image, images, image_features),
        (model.encode_text, ids, text_features),
    ):
        torch.testing.assert_close(encode(inputs, normalize=True), nn.functional.normalize(plain, dim=-1))
    image_logits, text_logits = model.get_logits(images, ids)
    units = [nn.functional.normalize(features, dim=-1) for features in (image_features, text_features)]
    torch.testing.assert_close(image_logits, torch.tensor(2.0).exp() * units[0] @ units[1].T)
    torch.testing.assert_close(text_logits, image_logits.T)


def test_tuples_and_dicts(name: str, model: nn.Module, images: Tensor, ids: Tensor) -> None:
    image_features, text_features, scale = model(images, ids)
    assert scale.item() == pytest.approx(torch.tensor(2.0).exp().item())
    as_dict = open_clip.create_model(name, output_dict=True)
    as_dict.load_state_dict(model.state_dict())
    torch.testing.assert_close(
        as_dict.eval()(images, ids),
        {"image_features": image_features, "text_features": text_features, "logit_scale": scale},
    )
    assert model(images, None)[1] is None


def test_short_texts_are_padded(model: nn.Module, ids: Tensor) -> None:
    padded = torch.cat([ids[:, :4], torch.zeros(2, 8, dtype=torch.long)], dim=1)
    torch.testing.assert_close(model.encode_text(ids[:, :4]), model.encode_text(padded))


def test_intermediates(model: nn.Module, images: Tensor, ids: Tensor) -> None:
    output = model.forward_intermediates(
        images, ids, image_indices=[0, 1], text_indices=2, normalize_intermediates=True, output_logits=True
    )
    assert [feature.shape for feature in output["image_intermediates"]] == [(2, 32, 4, 4)] * 2
    assert [feature.shape for feature in output["text_intermediates"]] == [(2, 12, 32)] * 2
    torch.testing.assert_close(output["image_features"], model.encode_image(images, normalize=True))
    torch.testing.assert_close(output["text_features"], model.encode_text(ids, normalize=True))
    torch.testing.assert_close(output["image_logits"], model.get_logits(images, ids)[0])
    only = model.forward_intermediates(
        images, intermediates_only=True, image_output_fmt="NLC", image_output_extra_tokens=True, stop_early=True
    )
    assert [feature.shape for feature in only["image_intermediates"]] == [(2, 16, 32)] * 2


@pytest.mark.filterwarnings("ignore:Importing from timm.models.helpers")
def test_locking_the_image_tower(model: nn.Module) -> None:
    model.lock_image_tower(unlocked_groups=1)
    trunk = {n: parameter.requires_grad for n, parameter in model.visual.trunk.named_parameters()}
    assert not trunk["pos_embed"]
    assert not trunk["blocks.0.norm1.weight"]
    assert trunk["blocks.1.norm1.weight"]
    assert trunk["norm.weight"]
    model.lock_image_tower()
    assert not any(parameter.requires_grad for parameter in model.visual.parameters())
    assert all(parameter.requires_grad for parameter in model.text.parameters())


def test_locking_the_text_tower(model: nn.Module) -> None:
    model.lock_text_tower(unlocked_layers=2)
    text = {n: parameter.requires_grad for n, parameter in model.text.named_parameters()}
    assert {n for n, trains in text.items() if trains} == {n for n in text if n.startswith(("blocks.2.", "norm."))}
    model.lock_text_tower(freeze_layer_norm=False)
    text = {n: parameter.requires_grad for n, parameter in model.text.named_parameters()}
    assert {n for n, trains in text.items() if trains} == {n for n in text if "norm" in n}
    assert all(parameter.requires_grad for parameter in model.visual.parameters())


def test_gradient_checkpointing_and_weight_decay(model: nn.Module, images: Tensor, ids: Tensor) -> None:
    expected = model(images, ids)
    model.set_grad_checkpointing()
    assert model.visual.trunk.grad_checkpointing
    assert model.text.grad_checkpointing
    torch.testing.assert_close(model.train()(images, ids), expected)
    names = dict(model.named_parameters()).keys()
    exempt = model.no_weight_decay()
    assert exempt <= names
    assert {"visual.trunk.pos_embed", "visual.trunk.blocks.1.spatial_mix.bonus"} <= exempt
    assert {"text.token_embedding.weight", "text.blocks.2.time_mix.bonus"} <= exempt
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


@pytest.mark.parametrize("precision", ["bf16", "pure_bf16"])
def test_half_precision(name: str, precision: str, images: Tensor, ids: Tensor) -> None:
    model = open_clip.create_model(name, precision=precision).eval()
    image_features, text_features, _ = model(images.bfloat16(), ids)
    assert image_features.dtype == torch.bfloat16
    assert image_features.isfinite().all()
    assert text_features.isfinite().all()


def test_another_image_size_and_context(name: str) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(name, force_image_size=48, force_context_length=7)
    assert model.visual.image_size == (48, 48)
    assert model.visual.trunk.pos_embed.shape == (1, 36, 32)
    assert preprocess(Image.new("RGB", (60, 50))).shape == (3, 48, 48)
    assert model.context_length == 7
    assert open_clip.get_tokenizer(name)(["word " * 30]).shape == (1, 12)


def test_open_clip_loads_our_files(name: str, model: nn.Module, images: Tensor, ids: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(model, path)
    loaded = open_clip.create_model(name, pretrained=str(path)).eval()
    torch.testing.assert_close(loaded(images, ids), model(images, ids), rtol=0, atol=0)


def test_a_stochastic_depth_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    config = copy.deepcopy(TINY)
    config["vision_cfg"]["timm_drop_path"] = 0.3
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "rwkv-tiny", config)
    model = open_clip.create_model("rwkv-tiny")
    assert model.visual.trunk.blocks[1].drop_path1.drop_prob == pytest.approx(0.3)


def test_open_clips_own_models_still_build(tmp_path: Path) -> None:
    (tmp_path / "own-vit.json").write_text(json.dumps(OWN_VIT))
    (tmp_path / "own-timm.json").write_text(
        json.dumps(
            {
                "embed_dim": 16,
                "vision_cfg": {
                    "timm_model_name": "resnet10t",
                    "timm_pool": "",
                    "timm_proj": "linear",
                    "image_size": 32,
                },
                "text_cfg": OWN_VIT["text_cfg"],
            }
        )
    )
    configs, paths = dict(open_clip.factory._MODEL_CONFIGS), list(open_clip.factory._MODEL_CONFIG_PATHS)
    try:
        open_clip.add_model_config(tmp_path)
        for name in ("own-vit", "own-timm"):
            model = open_clip.create_model(name).eval()
            assert not isinstance(getattr(model, "text", None), TextTower)
            assert model.encode_image(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
            assert model.encode_text(torch.zeros(1, 8, dtype=torch.long)).shape == (1, 16)
    finally:
        open_clip.factory._MODEL_CONFIG_PATHS[:] = paths
        open_clip.factory._MODEL_CONFIGS.clear()
        open_clip.factory._MODEL_CONFIGS.update(configs)


def test_timm_image_towers_of_another_kind() -> None:
    for architecture, arguments in (("vit_tiny_patch16_224", {"embed_dim": 32, "num_heads": 2}), ("resnet10t", {})):
        width = 512 if architecture == "resnet10t" else 32
        tower = rwkv_clip.open_clip_adapter.ImageTower(architecture, width, 48, model_kwargs=arguments)
        assert tower(torch.zeros(2, 3, 48, 48)).shape == (2, width)
        projected = rwkv_clip.open_clip_adapter.ImageTower(architecture, 8, 48, proj="linear", model_kwargs=arguments)
        assert projected(torch.zeros(2, 3, 48, 48)).shape == (2, 8)
        assert projected.trunk.pretrained_cfg == timm.get_pretrained_cfg(architecture).to_dict()


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("text_cfg", {"hidden": 3}, r"text_cfg has unknown keys \['hidden'\]"),
        ("text_cfg", {"width": 64}, "width 64 must equal embed_dim 32"),
        ("text_cfg", {"layers": None}, r"text_cfg lacks \['layers'\]"),
        ("text_cfg", {"rwkv_mixer": "rwkv6-bi"}, "did you mean 'rwkv6_bi'"),
        ("vision_cfg", {"patch_dropout": 0.5}, r"vision_cfg has unknown keys \['patch_dropout'\]"),
        ("vision_cfg", {"timm_model_name": None}, "vision_cfg lacks timm_model_name"),
        ("vision_cfg", {"timm_proj": "mlp"}, "timm_proj must be 'none' or 'linear', not 'mlp'"),
    ],
)
def test_wrong_configurations_are_refused(part: str, change: dict[str, object], message: str) -> None:
    config = copy.deepcopy(TINY)
    config[part] = {key: value for key, value in {**config[part], **change}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        rwkv_clip.create_model(config)
