"""What else timm's users do with every registered image model: heads, sizes, optimisers, files, copies."""

import copy
import pickle
from pathlib import Path

import pytest
import timm
import torch
from models_under_test import NAMES, WIDTHS, build, every_model, images, patch_of
from safetensors.torch import save_file
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import nn

import vrwkv


def test_every_registered_model_is_tested() -> None:
    registered = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("vrwkv")]
    assert sorted(registered) == NAMES == sorted(WIDTHS)


@every_model
def test_without_a_classifier(name: str) -> None:
    model, x = build(name, num_classes=0), images(name)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model.head_hidden_size == model.num_features == WIDTHS[name]
    torch.testing.assert_close(model(x), model.forward_features(x).mean(1))
    assert torch.equal(model.forward_head(model.forward_features(x), pre_logits=True), model(x))


@every_model
def test_reset_classifier(name: str) -> None:
    model, x = build(name), images(name)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert model.num_classes == 7
    model.reset_classifier(0, "max")
    torch.testing.assert_close(model(x), model.forward_features(x).amax(1))
    model.reset_classifier(3, "")
    assert model(x).shape == (2, 9, 3)
    with pytest.raises(ValueError, match="needs class_token=True"):
        model.reset_classifier(3, "token")


@every_model
def test_pooling(name: str) -> None:
    x = images(name)
    tokens = build(name).forward_features(x)
    for pool, expected in {
        "avg": tokens.mean(1),
        "max": tokens.amax(1),
        "avgmax": 0.5 * (tokens.mean(1) + tokens.amax(1)),
        "": tokens,
    }.items():
        torch.testing.assert_close(build(name, global_pool=pool).pool(tokens), expected)
    with pytest.raises(ValueError, match="global_pool must be one of"):
        build(name, global_pool="median")
    with pytest.raises(ValueError, match="needs class_token=True"):
        build(name, global_pool="token")


@every_model
def test_unknown_arguments_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match="embed_dims"):
        timm.create_model(name, embed_dims=64)


@every_model
def test_weight_decay_and_layer_groups_name_real_parameters(name: str) -> None:
    model = build(name)
    names = dict(model.named_parameters()).keys()
    exempt = model.no_weight_decay()
    assert exempt <= names
    assert "pos_embed" in exempt
    bonuses = {f"blocks.{layer}.spatial_mix.bonus" for layer in range(2)}
    assert bonuses <= exempt
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse), reverse=True)
        assert groups.keys() == names
    assert groups["pos_embed"] == groups["norm_pre.weight"] == groups["patch_embed.proj.weight"] == 0
    assert groups["blocks.0.norm1.weight"] < groups["blocks.1.norm1.weight"] == groups["norm.weight"]
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


@every_model
def test_set_input_size(name: str) -> None:
    model, patch = build(name), patch_of(name)
    size = (2 * patch, 5 * patch)
    x = images(name, 2, *size)
    expected = model(x)
    model.set_input_size(size)
    assert model.pos_embed.shape == (1, 10, WIDTHS[name])
    assert model.patch_embed.img_size == size
    torch.testing.assert_close(model(x), expected)
    model.pos_embed.requires_grad_(False)
    model.set_input_size(patch_size=patch // 2)
    assert model.pos_embed.shape == (1, 40, WIDTHS[name])
    assert not model.pos_embed.requires_grad
    assert model.patch_embed.proj.weight.requires_grad
    assert model.forward_features(x).shape == (2, 40, WIDTHS[name])
    assert model.feature_info[0]["reduction"] == patch // 2


@every_model
def test_fixed_image_size(name: str) -> None:
    model, patch = build(name, dynamic_img_size=False), patch_of(name)
    torch.testing.assert_close(model(images(name)), build(name)(images(name)))
    with pytest.raises(ValueError, match=rf"images must be \({3 * patch}, {3 * patch}\) pixels"):
        model(images(name, 2, patch, patch))


@every_model
def test_copies_behave_alike(name: str) -> None:
    model, x = build(name), images(name)
    expected = model(x)
    fresh = build(name)
    nn.init.normal_(fresh.pos_embed)
    fresh.load_state_dict(model.state_dict())
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fresh):
        assert torch.equal(copied(x), expected)
        with torch.no_grad():
            copied.pos_embed.fill_(3.0)
    assert torch.equal(model(x), expected)


@every_model
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timm_loads_our_own_files(name: str, suffix: str, tmp_path: Path) -> None:
    model, path = build(name), tmp_path / f"own{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    else:
        save_file(model.state_dict(), path)
    options = {"depth": 2, "embed_dim": WIDTHS[name], "img_size": 3 * patch_of(name), "num_classes": 5}
    if "large" in name:
        options["head_hidden_dim"] = 40
    loaded = timm.create_model(name, checkpoint_path=str(path), **options).eval()
    assert torch.equal(loaded(images(name)), model(images(name)))


@every_model
def test_published_round_trip(name: str) -> None:
    model, other = build(name), build(name)
    published = vrwkv.to_published(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    vrwkv.load_published(other, published)
    torch.testing.assert_close(vrwkv.to_published(other), published, rtol=0, atol=0)
    assert torch.equal(other(images(name)), model(images(name)))


@every_model
def test_depth_one_and_any_construction(name: str) -> None:
    model = build(name, depth=1, drop_path_rate=0.2).train()
    model(images(name)).square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    options = {"depth": 2, "embed_dim": WIDTHS[name], "drop_path_rate": 0.1}
    assert timm.create_model(name, device="meta", **options)(torch.empty(1, 3, 40, 90, device="meta")).is_meta
    assert {p.dtype for p in timm.create_model(name, dtype=torch.bfloat16, **options).parameters()} == {torch.bfloat16}
