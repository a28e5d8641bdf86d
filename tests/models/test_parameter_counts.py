"""Sizes and published names of the full models, on the meta device: exact numbers of the released models."""

import pytest
import timm
import torch
from torch import nn

import vrwkv
from vrwkv.models import registry

PARAMETERS = {
    "vrwkv_tiny_patch16_224": 6_155_176,
    "vrwkv_small_patch16_224": 23_820_136,
    "vrwkv_base_patch16_224": 93_645_544,
    "vrwkv_large_patch16_384": 334_881_768,
    "vrwkv6_tiny_patch16_224": 7_641_256,
    "vrwkv6_small_patch16_224": 27_677_032,
    "vrwkv6_base_patch16_224": 104_898_280,
    "rwkv_clip_base_patch32_224": 84_207_360,
    "rwkv_clip_base_patch16_224": 82_826_880,
}
BACKBONE_TENSORS = {
    "vrwkv_tiny_patch16_224": 223,
    "vrwkv_small_patch16_224": 247,
    "vrwkv_base_patch16_224": 247,
    "vrwkv6_tiny_patch16_224": 343,
    "vrwkv6_small_patch16_224": 367,
    "vrwkv6_base_patch16_224": 367,
}


def on_meta(name: str, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def published_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in vrwkv.to_published(model).items()}


def expected_trunk(
    dim: int, depth: int, positions: int, patch: int, hidden: int, mixer: dict[str, tuple[int, ...]], **options: bool
) -> dict[str, tuple[int, ...]]:
    """The published keys of the trunk; `mixer` holds those of one layer's spatial mix."""
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, positions, dim),
        "patch_embed.projection.weight": (dim, 3, patch, patch),
        "patch_embed.projection.bias": (dim,),
    }
    norms = ["ln1", "layers.0.ln0", *(f"layers.{layer}.{norm}" for layer in range(depth) for norm in ("ln1", "ln2"))]
    for norm in norms:
        shapes |= {f"{norm}.weight": (dim,), f"{norm}.bias": (dim,)}
    for layer in range(depth):
        shapes |= {f"layers.{layer}.att.{key}": shape for key, shape in mixer.items()}
        shapes |= {
            f"layers.{layer}.ffn.spatial_mix_k": (1, 1, dim),
            f"layers.{layer}.ffn.spatial_mix_r": (1, 1, dim),
            f"layers.{layer}.ffn.key.weight": (hidden, dim),
            f"layers.{layer}.ffn.receptance.weight": (dim, dim),
            f"layers.{layer}.ffn.value.weight": (dim, hidden),
        }
        if options.get("layer_scale"):
            shapes |= {f"layers.{layer}.gamma1": (dim,), f"layers.{layer}.gamma2": (dim,)}
        if options.get("key_norm"):
            for key, width in (("att", dim), ("ffn", hidden)):
                shapes |= {f"layers.{layer}.{key}.key_norm.{part}": (width,) for part in ("weight", "bias")}
    return shapes


def bi_wkv_keys(dim: int) -> dict[str, tuple[int, ...]]:
    return {
        "spatial_decay": (dim,),
        "spatial_first": (dim,),
        **{f"spatial_mix_{role}": (1, 1, dim) for role in "kvr"},
        **{f"{matrix}.weight": (dim, dim) for matrix in ("key", "value", "receptance", "output")},
    }


def bi_wkv6_keys(dim: int, heads: int) -> dict[str, tuple[int, ...]]:
    return {
        **{f"time_maa_{role}": (1, 1, dim) for role in "xwkvrg"},
        "time_maa_w1": (dim, 160),
        "time_maa_w2": (5, 32, dim),
        "time_decay": (1, 1, dim),
        "time_decay_w1": (dim, 64),
        "time_decay_w2": (64, dim),
        "time_faaaa": (heads, dim // heads),
        **{f"{matrix}.weight": (dim, dim) for matrix in ("key", "value", "receptance", "gate", "output")},
        "ln_x.weight": (dim,),
        "ln_x.bias": (dim,),
    }


def test_the_registry_holds_these_names() -> None:
    own = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__ == registry.__name__]
    assert set(own) == set(registry.__all__) == set(PARAMETERS)


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameters(name: str, count: int) -> None:
    model = on_meta(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert f"{count:,}" in timm.model_entrypoint(name).__doc__
    assert not list(model.buffers())
    width = 640 if name.startswith("rwkv_clip") else 1000
    assert model(torch.empty(2, 3, 200, 100, device="meta")).shape == (2, width)


@pytest.mark.parametrize(("name", "count"), BACKBONE_TENSORS.items())
def test_backbone_tensors(name: str, count: int) -> None:
    model = on_meta(name, num_classes=0)
    assert len(model.state_dict()) == len(vrwkv.to_published(model)) == count


@pytest.mark.parametrize(("name", "dim"), [("tiny", 192), ("small", 384), ("base", 768)])
def test_published_keys_of_vrwkv(name: str, dim: int) -> None:
    expected = expected_trunk(dim, 12, 196, 16, 4 * dim, bi_wkv_keys(dim), layer_scale=name != "tiny")
    expected |= {"head.fc.weight": (1000, dim), "head.fc.bias": (1000,)}
    assert published_shapes(on_meta(f"vrwkv_{name}_patch16_224")) == expected


def test_published_keys_of_vrwkv_large() -> None:
    model = on_meta("vrwkv_large_patch16_384")
    expected = expected_trunk(1024, 24, 144, 16, 4096, bi_wkv_keys(1024), layer_scale=True, key_norm=True)
    expected |= {"head.0.weight": (3072, 1024), "head.0.bias": (3072,)}
    expected |= {"head.2.weight": (1000, 3072), "head.2.bias": (1000,)}
    assert published_shapes(model) == expected
    assert len(expected) == 587


@pytest.mark.parametrize(("name", "dim", "heads"), [("tiny", 192, 3), ("small", 384, 6), ("base", 768, 12)])
def test_published_keys_of_vrwkv6(name: str, dim: int, heads: int) -> None:
    expected = expected_trunk(dim, 12, 196, 16, 4 * dim, bi_wkv6_keys(dim, heads), layer_scale=name != "tiny")
    expected |= {"head.fc.weight": (1000, dim), "head.fc.bias": (1000,)}
    assert published_shapes(on_meta(f"vrwkv6_{name}_patch16_224")) == expected


@pytest.mark.parametrize(("patch", "positions"), [(32, 49), (16, 196)])
def test_published_keys_of_the_clip_image_tower(patch: int, positions: int) -> None:
    expected = expected_trunk(640, 12, positions, patch, 3200, bi_wkv6_keys(640, 8))
    assert published_shapes(on_meta(f"rwkv_clip_base_patch{patch}_224")) == expected


@pytest.mark.parametrize("name", PARAMETERS)
def test_pretrained_configuration(name: str) -> None:
    config = timm.get_pretrained_cfg(name)
    size = 384 if "384" in name else 224
    assert config.input_size == (3, size, size)
    assert config.interpolation == "bicubic"
    assert config.classifier == ("head.2" if "large" in name else "head")
    assert config.first_conv == "patch_embed.proj"
    if name.startswith("rwkv_clip"):
        hub = "Kaichengalex/RWKV-CLIP-" + ("B32-YFCC15M" if "patch32" in name else "B16-LAION10M")
        assert (config.num_classes, config.hf_hub_id, config.mean[0]) == (0, hub, 0.48145466)
        assert config.hf_hub_filename == "model_31.pt"
    else:
        assert (config.num_classes, config.hf_hub_id) == (1000, "OpenGVLab/Vision-RWKV")
        assert config.crop_pct == (1.0 if "large" in name else 0.875)  # short side 256, then 224; 384 whole
        letter = name.split("_")[1][0]
        version = name.split("_")[0]
        suffix = "22kto1k_384" if "large" in name else "in1k_224"
        assert config.hf_hub_filename == f"{version}_{letter}_{suffix}.pth"
