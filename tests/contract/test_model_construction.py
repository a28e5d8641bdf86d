"""How every registered image model is built and started: devices, dtypes, the meta device, channels, trained heads."""

import copy

import pytest
import timm
import torch
from models_under_test import WIDTHS, build, every_model, images, patch_of
from torch import nn


def small(name: str, **options: object) -> nn.Module:
    return timm.create_model(name, **{"depth": 2, "embed_dim": WIDTHS[name], "num_classes": 5, **options})


@every_model
def test_starts_anew_after_the_meta_device(name: str) -> None:
    torch.manual_seed(0)
    fresh, other = (small(name, dtype=torch.float64) for _ in range(2))
    model = small(name, device="meta", dtype=torch.float64)
    assert all(parameter.is_meta and parameter.dtype == torch.float64 for parameter in model.parameters())
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    model.init_weights()
    for key, started in model.named_parameters():
        expected = fresh.get_parameter(key)
        drawn = not torch.equal(expected, other.get_parameter(key))
        assert torch.equal(started, expected) != drawn, key
        if drawn:
            assert 0.5 < started.std() / expected.std() < 2, key
    assert model(images(name).double()).isfinite().all()


@every_model
def test_starting_again_is_construction_again(name: str) -> None:
    model = build(name)
    start = copy.deepcopy(model)
    torch.manual_seed(3)
    model.init_weights()
    torch.manual_seed(3)
    start.init_weights()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True))
    assert not model.pos_embed.any()
    before = {key: parameter.clone() for key, parameter in model.named_parameters()}
    model.init_weights(needs_reset=False)
    changed = {key for key, parameter in model.named_parameters() if not torch.equal(parameter, before[key])}
    linears = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert changed == (linears if model.weight_init == "published" else set())


@every_model
def test_device_and_dtype_reach_every_tensor(name: str) -> None:
    model = small(name, device="meta", dtype=torch.bfloat16).eval()
    assert all(tensor.is_meta and tensor.dtype == torch.bfloat16 for tensor in model.state_dict().values())
    assert model(torch.empty(2, 3, 40, 50, device="meta", dtype=torch.bfloat16)).dtype == torch.bfloat16
    model.to(torch.float64)
    model.reset_classifier(0)
    model.reset_classifier(7)
    assert all(parameter.is_meta and parameter.dtype == torch.float64 for parameter in model.head.parameters())
    assert not any(module.training for module in model.modules())
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in small(name).parameters())


@every_model
@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_channels(name: str, in_chans: int) -> None:
    model = build(name, in_chans=in_chans)
    assert model.in_chans == in_chans
    assert model(images(name, channels=in_chans)).shape == (2, 5)
    with pytest.raises(ValueError, match=rf"shape \(B, {in_chans}, H, W\)"):
        model(images(name))


@every_model
def test_default_configurations(name: str) -> None:
    keys = build(name).state_dict().keys()
    tags = [tagged for tagged in timm.list_models(f"{name}*", include_tags=True) if tagged.partition(".")[0] == name]
    assert tags
    for tagged in tags:
        config = timm.get_pretrained_cfg(tagged)
        assert f"{config.first_conv}.weight" in keys
        assert f"{config.classifier}.weight" in keys
        assert config.input_size[0] == 3
        assert min(config.input_size[1:]) % patch_of(name) == 0
        assert not config.fixed_input_size
        assert config.pool_size is None


@every_model
def test_frozen_stays_frozen(name: str) -> None:
    model = build(name)
    model.requires_grad_(False)
    model.reset_classifier(0, "")
    model.set_input_size((5 * patch_of(name), 2 * patch_of(name)), patch_size=patch_of(name) // 2)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@every_model
@pytest.mark.parametrize(("indices", "prune_norm"), [([0], False), ([1], False), ([0], True), ([0, 1], True)])
def test_pruned_models_have_no_idle_parameter(name: str, indices: list[int], prune_norm: bool) -> None:
    model, x = build(name, drop_rate=0.5), images(name)
    taken = model.prune_intermediate_layers(indices, prune_norm=prune_norm)
    assert torch.equal(model(x), model(x))  # no new module is in training mode
    model.train()
    features = model.forward_intermediates(x, taken, norm=not prune_norm, intermediates_only=True)
    sum(feature.square().sum() for feature in features).backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


@every_model
def test_features_do_not_change_when_recomputed(name: str) -> None:
    x = images(name)
    gradients = []
    for recompute in (False, True):
        model = build(name, features_only=True, out_indices=(0, 1)).train()
        model.model.set_grad_checkpointing(recompute)
        sum(feature.square().mean() for feature in model(x)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])
