"""Constructor arguments beyond what the registered models use."""

import pytest
import torch
from torch import Tensor, nn

import vrwkv
from vrwkv import VisionRWKV, VisionRWKV6
from vrwkv.models.position import resample_position_embedding


def build(model_class: type[VisionRWKV] = VisionRWKV, **kwargs: object) -> VisionRWKV:
    """A small float64 model away from its starting values."""
    torch.manual_seed(0)
    options = {"img_size": 24, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_classes": 4, **kwargs}
    model = model_class(**options).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(height: int = 24, width: int = 24, batch: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 3, height, width, dtype=torch.float64)


def test_vision_rwkv6_is_the_other_mixer() -> None:
    assert build(VisionRWKV6).state_dict().keys() == build(mixer="bi_wkv6").state_dict().keys()
    assert isinstance(VisionRWKV6(depth=1), VisionRWKV)
    assert VisionRWKV6(embed_dim=192, depth=1).blocks[0].spatial_mix.num_heads == 3


def test_class_token_comes_last_and_has_no_position() -> None:
    model, x = build(VisionRWKV6, class_token=True, num_heads=2), images(16, 30)
    seen = []
    model.norm_pre.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    tokens = model.forward_features(x)
    assert tokens.shape == (2, 2 * 4 + 1, 32)
    torch.testing.assert_close(seen[0][:, -1:], model.cls_token.expand(2, -1, -1))
    assert model.num_prefix_tokens == 0
    torch.testing.assert_close(model.pool(tokens), tokens[:, :-1].mean(1))
    model.reset_classifier(3, "max")
    torch.testing.assert_close(model.pool(tokens), tokens[:, :-1].amax(1))
    model.reset_classifier(3, "avgmax")
    torch.testing.assert_close(model.pool(tokens), 0.5 * (tokens[:, :-1].amax(1) + tokens[:, :-1].mean(1)))
    model.reset_classifier(3, "token")
    torch.testing.assert_close(model(x), model.head(tokens[:, -1]))
    assert "cls_token" in model.no_weight_decay()


def test_class_token_stays_out_of_maps() -> None:
    model, x = build(VisionRWKV6, class_token=True, num_heads=2), images(16, 30)
    tokens = model.forward_features(x)
    expected = tokens[:, :-1].transpose(1, 2).reshape(2, 32, 2, 4)
    torch.testing.assert_close(model.forward_maps(x)[0], expected)
    final, maps = model.forward_intermediates(x, [1], norm=True, return_prefix_tokens=True)
    torch.testing.assert_close(maps[0], expected)
    torch.testing.assert_close(final, tokens)
    torch.testing.assert_close(model.forward_intermediates(x, [1], norm=True, output_fmt="NLC")[1][0], tokens[:, :-1])


def test_class_token_gathers_and_is_gathered() -> None:
    model, x = build(VisionRWKV6, class_token=True, num_heads=2), images().requires_grad_()
    model.forward_features(x)[:, -1].square().sum().backward()
    assert x.grad.abs().amax((0, 1)).unfold(0, 8, 8).unfold(1, 8, 8).amax((2, 3)).gt(0).all()
    model.zero_grad()
    model.forward_features(x)[:, 0].square().sum().backward()
    assert model.cls_token.grad.any()


def test_class_token_needs_the_mixer_that_has_one() -> None:
    with pytest.raises(ValueError, match="class_token needs mixer 'bi_wkv6'"):
        VisionRWKV(class_token=True)


@pytest.mark.parametrize("model_class", [VisionRWKV, VisionRWKV6])
@pytest.mark.parametrize(
    "options",
    [
        {"post_norm": True, "init_values": 0.5},
        {"key_norm": True},
        {"shift_pixel": 0},
        {"shift_pixel": 2},
        {"channel_gamma": 0.1},
        {"mlp_ratio": 2.5},
        {"final_norm": False},
        {"head_hidden_dim": 20},
        {"patch_size": (4, 8)},
        {"img_size": (16, 40)},
        {"num_classes": 0, "global_pool": ""},
    ],
    ids=lambda options: "-".join(options),
)
def test_options_change_the_output_and_train(options: dict[str, object], model_class: type[VisionRWKV]) -> None:
    heads = {"num_heads": 2} if model_class is VisionRWKV6 else {}
    model, x = build(model_class, **heads, **options), images(20, 30)
    y = model(x)
    y.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    plain = build(model_class, **heads)(x)
    assert y.shape != plain.shape or not torch.allclose(y, plain)
    restored = build(model_class, **heads, **options)
    with torch.no_grad():
        restored.pos_embed.zero_()
    vrwkv.load_published(restored, vrwkv.to_published(model))
    assert torch.equal(restored(x), y)


def test_layer_scale_of_zero_leaves_the_input() -> None:
    model, x = build(init_values=0.0, final_norm=False), images()
    with torch.no_grad():
        for block in model.blocks:
            block.ls1.gamma.zero_()
            block.ls2.gamma.zero_()
    torch.testing.assert_close(model.forward_features(x), model._embed(x)[0])


def test_final_norm_can_be_left_out() -> None:
    model, x = build(final_norm=False), images()
    assert isinstance(model.norm, nn.Identity)
    assert not any(name.startswith("ln1.") for name in vrwkv.to_published(model))
    last = model.forward_intermediates(x, [1], intermediates_only=True)[0]
    assert torch.equal(model.forward_maps(x)[0], last)


def test_published_formula_differs_slightly_and_trains() -> None:
    paper, published, x = build(), build(formula="published"), images(64, 64)
    expected, y = paper(x), published(x)
    difference = ((y - expected).abs().max() / expected.abs().max()).item()
    assert 1e-7 < difference < 1e-2
    y.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in published.parameters())
    assert published.blocks[0].spatial_mix.decay.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "bi_wkv6", "formula": "published"}, "formula 'paper'"),
        ({"mixer": "mamba"}, "mixer must be one of"),
        ({"num_heads": 3}, "num_heads must be left out"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"weight_init": "jax"}, "weight_init must be one of"),
        ({"init_mode": "fancier"}, "init_mode must be one of"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionRWKV(**options)


def test_large_classifier_is_linear_tanh_linear() -> None:
    model, x = build(head_hidden_dim=20), images()
    pooled = model.forward_features(x).mean(1)
    torch.testing.assert_close(model.forward_head(model.forward_features(x), pre_logits=True), pooled)
    torch.testing.assert_close(model(x), model.head[2](torch.tanh(model.head[0](pooled))))
    assert model.num_features == model.head_hidden_size == 32
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    model.reset_classifier(9)
    assert model(x).shape == (2, 9)
    assert model.head[0].out_features == 20


def test_dropouts_sit_where_their_names_say() -> None:
    x = images()
    dropped = build(pos_drop_rate=0.5).train()
    assert not torch.allclose(dropped.forward_features(x), dropped.forward_features(x))
    classifier = build(drop_rate=0.5).train()
    assert torch.equal(classifier.forward_features(x), classifier.forward_features(x))
    assert not torch.allclose(classifier(x), classifier(x))


def test_position_embedding_is_resized_as_published() -> None:
    torch.manual_seed(0)
    embedding = torch.randn(1, 12, 5, dtype=torch.float64)
    assert resample_position_embedding(embedding, (3, 4), (3, 4)) is embedding
    resized = resample_position_embedding(embedding, (3, 4), (6, 2))
    maps = embedding.reshape(1, 3, 4, 5).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(maps, (6, 2), mode="bicubic", align_corners=False)
    torch.testing.assert_close(resized, expected.flatten(2).transpose(1, 2))
    assert resample_position_embedding(embedding.bfloat16(), (3, 4), (2, 2)).dtype == torch.bfloat16
    constant = torch.ones(1, 12, 5)
    torch.testing.assert_close(resample_position_embedding(constant, (3, 4), (7, 5)), torch.ones(1, 35, 5))


def test_images_of_another_size_use_the_resized_positions() -> None:
    model, x = build(), images(40, 16)
    tokens, grid = model.patch_embed(x)
    assert grid == (5, 2)
    positions = resample_position_embedding(model.pos_embed, (3, 3), (5, 2))
    torch.testing.assert_close(model._embed(x)[0], model.norm_pre(tokens + positions))


def test_freezing_survives_another_input_size() -> None:
    model = build()
    model.requires_grad_(False)
    model.set_input_size((32, 16), patch_size=4)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.pos_embed.shape == (1, 32, 32)
