import math

import pytest
import timm
import torch

import rwkv_clip
from rwkv_clip import ModelConfig
from rwkv_clip.model import ImageTowerConfig, TextTowerConfig
from vrwkv import InputError


def build(
    image: ImageTowerConfig | None = None, text: TextTowerConfig | None = None, **kwargs: object
) -> torch.nn.Module:
    small_image = ImageTowerConfig(image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, mlp_ratio=2)
    small_text = TextTowerConfig(depth=1, num_heads=2, context_length=9)
    torch.manual_seed(0)
    return rwkv_clip.create_model(ModelConfig(32, image or small_image, text or small_text, **kwargs)).eval()


def test_the_default_is_rwkv_clip_b32() -> None:
    with torch.device("meta"):
        model = rwkv_clip.create_model(ModelConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 149_561_601
    assert model.output_dict
    assert model.context_length == 77


def test_every_setting_arrives() -> None:
    image = ImageTowerConfig("vrwkv6_tiny_patch16_224", 48, 16, 24, 2, 3, 5.0, 0.2, projection=True)
    model = build(image, TextTowerConfig(depth=3, num_heads=4, mlp_ratio=2.0, context_length=5))
    trunk, text = model.visual.trunk, model.text
    assert model.visual.image_size == (48, 48)
    assert trunk.patch_embed.img_size == (48, 48)
    assert trunk.patch_embed.proj.weight.shape == (24, 3, 16, 16)
    assert len(trunk.blocks) == 2
    assert trunk.blocks[0].spatial_mix.num_heads == 3
    assert trunk.blocks[0].channel_mix.key.weight.shape == (120, 24)
    assert trunk.blocks[1].drop_path1.drop_prob == pytest.approx(0.2)
    assert model.visual.head.proj.weight.shape == (32, 24)
    assert (len(text.blocks), text.blocks[0].time_mix.num_heads, text.context_length) == (3, 4, 5)
    assert text.blocks[0].channel_mix.key.weight.shape == (64, 32)
    assert model.encode_image(torch.zeros(1, 3, 48, 48)).shape == (1, 32)
    assert model.encode_text(torch.zeros(1, 5, dtype=torch.long)).shape == (1, 32)


def test_temperature_and_bias() -> None:
    model = build(init_temperature=0.1, init_bias=-10.0)
    assert model.logit_scale.item() == pytest.approx(math.log(10))
    assert model.logit_bias.item() == -10
    assert build().logit_scale.item() == pytest.approx(2.6593, abs=1e-4)
    assert build().logit_bias is None


@pytest.mark.parametrize("architecture", ["vrwkv_tiny_patch16_224", "vrwkv6_tiny_patch16_224", "vit_tiny_patch16_224"])
def test_any_image_model_of_timm(architecture: str) -> None:
    model = build(ImageTowerConfig(architecture, 48, depth=1, projection=True))
    assert model.encode_image(torch.zeros(2, 3, 48, 48)).shape == (2, 32)


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        (
            "image",
            {"architecture": "vrwkv_tiny"},
            "'vrwkv_tiny' is no model of timm.*did you mean 'vrwkv_tiny_patch16_224'",
        ),
        ("image", {"image_size": 0}, "model.image.image_size must be positive, not 0"),
        ("image", {"patch_size": 0}, "model.image.patch_size must be positive, not 0"),
        ("image", {"depth": 0}, "model.image.depth must be positive, not 0"),
        ("image", {"mlp_ratio": -1.0}, "model.image.mlp_ratio must be positive"),
        ("image", {"drop_path_rate": 1.0}, r"model.image.drop_path_rate must lie in \[0, 1\), not 1.0"),
        ("text", {"mixer": "rwkv"}, "model.text.mixer 'rwkv' is unknown; did you mean 'rwkv6_bi'"),
        ("text", {"depth": 0}, "model.text.depth must be positive"),
        ("text", {"context_length": -3}, "model.text.context_length must be positive"),
        ("text", {"num_heads": 3}, "model.text.num_heads 3 does not split embed_dim 640"),
        ("text", {"mlp_ratio": 0.0}, "model.text.mlp_ratio must be positive"),
    ],
)
def test_impossible_settings_are_refused_at_once(part: str, settings: dict[str, object], message: str) -> None:
    tower = {"image": ImageTowerConfig, "text": TextTowerConfig}[part](**settings)
    with pytest.raises(InputError, match=message) as caught:
        ModelConfig(**{part: tower})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value"), [("embed_dim", 0), ("init_temperature", 0.0), ("init_temperature", -1.0)]
)
def test_impossible_numbers_are_refused(setting: str, value: float) -> None:
    with pytest.raises(InputError, match=f"model.{setting} must be positive"):
        ModelConfig(**{setting: value})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (ImageTowerConfig("vrwkv_tiny_patch16_224", 32, depth=1), "features of width 192, but embed_dim is 32"),
        (ImageTowerConfig("vrwkv_tiny_patch16_224", 32, depth=1, num_heads=2), "num_heads must be left out"),
        (ImageTowerConfig("vrwkv6_tiny_patch16_224", 32, embed_dim=32, num_heads=3), "num_heads must divide dim 32"),
        (ImageTowerConfig("resnet10t", 32, patch_size=4), "the model cannot be built: .*patch_size"),
        (ImageTowerConfig("vit_tiny_patch16_224", 32, num_heads=5), "the model cannot be built: "),
    ],
)
def test_what_the_towers_refuse_is_one_line(image: ImageTowerConfig, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build(image)
    assert "\n" not in str(caught.value)


def test_an_open_clip_configuration_does_as_well() -> None:
    as_dict = ModelConfig().to_open_clip()
    as_dict["text_cfg"] |= {"layers": 1}
    as_dict["vision_cfg"]["timm_model_kwargs"] = {"depth": 1}
    before = repr(as_dict)
    with torch.device("meta"):
        model = rwkv_clip.create_model({**as_dict, "custom_text": True})
    assert len(model.visual.trunk.blocks) == len(model.text.blocks) == 1
    assert repr(as_dict) == before


def test_unknown_model_in_an_open_clip_configuration() -> None:
    config = ModelConfig().to_open_clip()
    config["vision_cfg"]["timm_model_name"] = "vrwkv_huge"
    with pytest.raises(InputError, match="the model cannot be built: Unknown model"):
        rwkv_clip.create_model(config)
    assert not timm.is_model("vrwkv_huge")
