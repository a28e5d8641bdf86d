"""How whole models start: the released recipe's matrices, zero positions, neutral norms."""

import math

import pytest
import timm
import torch
from torch import nn

import vrwkv


def assert_spread(weight: torch.Tensor, deviation: float) -> None:
    assert abs(weight.mean().item()) < 4 * deviation / math.sqrt(weight.numel())
    assert weight.std().item() == pytest.approx(deviation, rel=0.03)


@pytest.mark.parametrize("name", ["vrwkv_tiny_patch16_224", "vrwkv6_tiny_patch16_224"])
def test_matrices_are_normal_with_deviation_002(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, depth=2)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 1 + 2 * (7 if name.startswith("vrwkv_") else 8)
    for linear in linears:
        assert_spread(linear.weight, 0.02)
        assert linear.weight.abs().max() > 0.06  # cut at 2, not at two deviations
        assert linear.bias is None or not linear.bias.any()
    assert not model.pos_embed.any()
    bound = 1 / math.sqrt(3 * 16 * 16)  # torch's own start for convolutions
    assert 0.98 * bound < model.patch_embed.proj.weight.abs().max() <= bound
    assert model.patch_embed.proj.bias.any()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rwkv_clip_base_patch32_224", {}),
        ("vrwkv_large_patch16_384", {"embed_dim": 128, "head_hidden_dim": 160}),
        ("vrwkv_tiny_patch16_224", {"weight_init": "torch"}),
    ],
)
def test_matrices_keep_torchs_start_where_the_released_code_leaves_them(name: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, depth=1, **options)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            assert 0.98 * bound < module.weight.abs().max() <= bound
            assert_spread(module.weight, bound / math.sqrt(3))
    assert not model.pos_embed.any()


def test_reset_classifier_starts_as_the_rest() -> None:
    torch.manual_seed(0)
    model = vrwkv.VisionRWKV(depth=1, embed_dim=256, num_classes=0)
    model.reset_classifier(200)
    assert_spread(model.head.weight, 0.02)
    assert not model.head.bias.any()


def test_norms_and_class_token_start_neutral() -> None:
    model = vrwkv.VisionRWKV6(depth=2, embed_dim=64, class_token=True)
    assert not model.cls_token.any()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            assert module.eps == 1e-5
            assert module.weight.eq(1).all()
            assert not module.bias.any()


@pytest.mark.parametrize(
    ("name", "init_values"),
    [("vrwkv_small_patch16_224", 1.0), ("vrwkv_base_patch16_224", 1e-5), ("vrwkv6_small_patch16_224", 1e-5)],
)
def test_layer_scale(name: str, init_values: float) -> None:
    model = timm.create_model(name, depth=1)
    assert model.blocks[0].ls1.gamma.eq(init_values).all()
    assert model.blocks[0].ls2.gamma.eq(init_values).all()
    assert model.blocks[0].post_norm


def test_layers_know_their_depth() -> None:
    model = timm.create_model("vrwkv_tiny_patch16_224")
    assert model.blocks[11].spatial_mix.decay[95].item() == pytest.approx(-3.02089, abs=1e-5)
    assert model.blocks[11].channel_mix.mix_k[96].item() == pytest.approx(0.94387, abs=1e-5)


def test_construction_is_a_function_of_the_seed() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(5)
        models.append(vrwkv.VisionRWKV6(depth=2, embed_dim=64))
    for name, parameter in models[0].named_parameters():
        assert torch.equal(parameter, models[1].get_parameter(name)), name


def test_drop_path_rises_linearly() -> None:
    model = vrwkv.VisionRWKV(depth=5, embed_dim=16, drop_path_rate=0.4)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
