"""What every registered image model must do, at depth 2; the whole models run under the mark `whole`."""

import copy
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import vrwkv
from vrwkv.models import registry

NAMES = sorted(set(registry.__all__))
# Widths that keep each model's number of heads, at most a third of the full ones.
WIDTHS = {
    "vrwkv_tiny_patch16_224": 48,
    "vrwkv_small_patch16_224": 64,
    "vrwkv_base_patch16_224": 64,
    "vrwkv_large_patch16_384": 64,
    "vrwkv6_tiny_patch16_224": 48,
    "vrwkv6_small_patch16_224": 96,
    "vrwkv6_base_patch16_224": 96,
    "rwkv_clip_base_patch16_224": 160,
    "rwkv_clip_base_patch32_224": 160,
}

every_model = pytest.mark.parametrize("name", NAMES)


def patch_of(name: str) -> int:
    return 32 if "patch32" in name else 16


def build(name: str, **kwargs: object) -> nn.Module:
    """The model with two narrow blocks, for 3×3 patches and five classes, away from its starting values."""
    torch.manual_seed(0)
    options = {"depth": 2, "embed_dim": WIDTHS[name], "img_size": 3 * patch_of(name), "num_classes": 5}
    if "large" in name:
        options["head_hidden_dim"] = 40
    model = timm.create_model(name, **{**options, **kwargs})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for key, parameter in model.named_parameters():
            if ".ls" in key:
                parameter.fill_(0.5)
    return model.eval()


def images(name: str, batch: int = 2, height: int = 0, width: int = 0, channels: int = 3) -> Tensor:
    torch.manual_seed(1)
    native = 3 * patch_of(name)
    return torch.randn(batch, channels, height or native, width or native)


def relative_error(computed: Tensor, expected: Tensor) -> float:
    return ((computed.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def test_every_registered_model_is_tested() -> None:
    registered = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("vrwkv")]
    assert sorted(registered) == NAMES == sorted(WIDTHS)


@every_model
def test_every_parameter_learns(name: str) -> None:
    model = build(name).train()
    logits = model(images(name))
    assert logits.shape == (2, 5)
    nn.functional.cross_entropy(logits, torch.tensor([1, 3])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@every_model
@pytest.mark.parametrize("size", [(16, 16), (32, 32), (5, 7), (1, 1), (17, 300), (225, 230), (64, 128), (300, 17)])
def test_any_image_size(name: str, size: tuple[int, int]) -> None:
    model, patch = build(name), patch_of(name)
    x = images(name, 1, *size).requires_grad_()
    grid = tuple(-(-side // patch) for side in size)
    tokens = model.forward_features(x)
    assert tokens.shape == (1, grid[0] * grid[1], WIDTHS[name])
    logits = model(x)
    assert logits.shape == (1, 5)
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    padded = torch.zeros(1, 3, grid[0] * patch, grid[1] * patch)
    padded[:, :, : size[0], : size[1]] = x.detach()
    torch.testing.assert_close(model(padded), logits)


@every_model
def test_images_of_a_batch_do_not_meet(name: str) -> None:
    model, x = build(name).double(), images(name, 3).double()
    together = model(x)
    for index in range(3):
        torch.testing.assert_close(model(x[index : index + 1]), together[index : index + 1])


@every_model
def test_each_token_sees_every_other(name: str) -> None:
    model, x = build(name).double(), images(name, 1).double().requires_grad_()
    model.forward_features(x)[0, 0].square().sum().backward()
    patch = patch_of(name)
    seen = x.grad.unfold(2, patch, patch).unfold(3, patch, patch).abs().amax((0, 1, 4, 5))
    assert (seen > 0).all()


@every_model
def test_bfloat16_and_autocast(name: str) -> None:
    model, x = build(name), images(name)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = model(x)
        under_autocast.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert relative_error(under_autocast, expected) < 0.05
    half = model.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert relative_error(half, expected) < 0.1


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
def test_one_input_channel(name: str) -> None:
    model = build(name, in_chans=1)
    assert model(images(name, channels=1)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\)"):
        model(images(name))


@every_model
def test_unknown_arguments_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match="embed_dims"):
        timm.create_model(name, embed_dims=64)


@every_model
def test_features_only(name: str) -> None:
    x, patch = images(name, 1, 40, 100), patch_of(name)
    extractor = build(name, features_only=True, out_indices=(0, 1))
    assert extractor.feature_info.channels() == [WIDTHS[name]] * 2
    assert extractor.feature_info.reduction() == [patch] * 2
    maps = extractor(x)
    assert [feature.shape for feature in maps] == [(1, WIDTHS[name], -(-40 // patch), -(-100 // patch))] * 2
    torch.testing.assert_close(maps, extractor.model.forward_intermediates(x, [0, 1], intermediates_only=True))


@every_model
def test_forward_intermediates(name: str) -> None:
    model, x = build(name), images(name, 2, 70, 40)
    tokens = model.forward_features(x)
    final, maps = model.forward_intermediates(x, norm=True)
    torch.testing.assert_close(final, tokens)
    assert len(maps) == 2
    torch.testing.assert_close(maps[1].flatten(2).transpose(1, 2), tokens)
    sequences = model.forward_intermediates(x, [0], output_fmt="NLC", intermediates_only=True)
    raw = model.forward_intermediates(x, [0], intermediates_only=True)
    torch.testing.assert_close(raw[0].flatten(2).transpose(1, 2), sequences[0])
    torch.testing.assert_close(model.norm(sequences[0]), maps[0].flatten(2).transpose(1, 2))
    as_dict = model.forward_intermediates(x, 1, norm=True, output_dict=True)
    torch.testing.assert_close(as_dict["image_intermediates"], [maps[1]])
    torch.testing.assert_close(as_dict["image_features"], tokens)
    with pytest.raises(ValueError, match="output_fmt must be"):
        model.forward_intermediates(x, output_fmt="NHWC")
    with pytest.raises(AssertionError):
        model.forward_intermediates(x, [2])


@every_model
def test_stop_early_runs_no_later_block(name: str) -> None:
    model, x = build(name), images(name)
    expected = model.forward_intermediates(x, [-2], intermediates_only=True)
    model.blocks[1].forward = None
    torch.testing.assert_close(model.forward_intermediates(x, [-2], intermediates_only=True, stop_early=True), expected)
    torch.testing.assert_close(list(model.forward_maps(x, 0)), expected)


@every_model
def test_forward_maps_follow_the_published_rule(name: str) -> None:
    model, x = build(name), images(name, 2, 40, 90)
    raw = model.forward_intermediates(x, intermediates_only=True)
    normalised = model.forward_intermediates(x, norm=True, intermediates_only=True)
    assert not torch.allclose(raw[1], normalised[1], atol=1e-3)
    for indices in ([0, 1], (0, 1), [-1, 0], [-2, -1]):
        first, last = model.forward_maps(x, indices)
        torch.testing.assert_close(first, raw[0])
        torch.testing.assert_close(last, normalised[1])
    torch.testing.assert_close(model.forward_maps(x), (normalised[1],))
    torch.testing.assert_close(model.forward_maps(x, 0), (raw[0],))
    for indices in (2, [0, 5], [-3], []):
        with pytest.raises(ValueError, match="out_indices must lie between -2 and 1"):
            model.forward_maps(x, indices)


@every_model
def test_prune_intermediate_layers(name: str) -> None:
    model, x = build(name), images(name)
    expected = model.forward_intermediates(x, [0], intermediates_only=True)
    assert model.prune_intermediate_layers([0], prune_norm=True) == [0]
    assert len(model.blocks) == 1
    assert isinstance(model.norm, nn.Identity)
    assert isinstance(model.head, nn.Identity)
    torch.testing.assert_close(model.forward_intermediates(x, [0], intermediates_only=True), expected)
    torch.testing.assert_close(model(x), expected[0].flatten(2).transpose(1, 2))


@every_model
@pytest.mark.parametrize("training", [True, False])
def test_gradient_checkpointing_changes_nothing(name: str, training: bool) -> None:
    model, x = build(name, drop_path_rate=0.3).train(training), images(name)
    results, runs = [], []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda *_: runs.append(1))
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(3)
        runs.clear()
        logits = model(x)
        logits.square().mean().backward()
        assert len(runs) == (4 if enable else 2)
        results.append((logits, {key: parameter.grad.clone() for key, parameter in model.named_parameters()}))
    torch.testing.assert_close(results[0], results[1])


@every_model
def test_drop_path_acts_in_training_only(name: str) -> None:
    model, x = build(name, drop_path_rate=0.9), images(name, 8)
    assert torch.equal(model(x), model(x))
    torch.testing.assert_close(model(x), build(name)(x))
    model.train()
    assert not torch.allclose(model(x), model(x))
    assert not hasattr(model.blocks[0].drop_path1, "drop_prob")
    assert model.blocks[1].drop_path1.drop_prob == model.blocks[1].drop_path2.drop_prob == 0.9


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


@pytest.mark.whole
@every_model
def test_whole_model(name: str) -> None:
    """Forward, backward and two image sizes of the model as it is registered."""
    torch.manual_seed(0)
    model = timm.create_model(name).train()
    native = model.patch_embed.img_size
    logits = model(torch.randn(2, 3, *native))
    assert logits.shape == (2, model.num_classes or model.num_features)
    logits.square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    model.zero_grad(set_to_none=True)
    model.eval()
    with torch.no_grad():
        for size in ((225, 230), (40, 300), timm.get_pretrained_cfg(name).input_size[1:]):
            assert model(torch.randn(1, 3, *size)).isfinite().all()
        with torch.autocast("cpu", torch.bfloat16):
            assert model(torch.randn(1, 3, *native)).isfinite().all()
