"""The ViT-Adapter around a Vision-RWKV: published names and counts, sizes, what its parts compute."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vrwkv
from vrwkv.dense import VisionRWKVAdapter
from vrwkv.dense.interaction import PyramidFeedForward
from vrwkv.models import to_published

# Published: backbone arguments, heads, width of the attention's values, tensors, parameters.
PUBLISHED = {
    "tiny": ({"embed_dim": 192, "depth": 12, "init_values": 1.0}, 6, 1.0, 484, 8_404_592),
    "small": ({"embed_dim": 384, "depth": 12, "init_values": 1e-5}, 6, 1.0, 484, 29_264_528),
    "base": ({"embed_dim": 768, "depth": 12, "init_values": 1e-5}, 12, 0.5, 484, 106_555_616),
    "large": (
        {"embed_dim": 1024, "depth": 24, "init_values": 1e-5, "key_norm": True, "img_size": 192, "post_norm": True},
        16,
        0.5,
        820,
        351_894_720,
    ),
}


def small(**options: object) -> VisionRWKVAdapter:
    torch.manual_seed(0)
    settings = {"img_size": 64, "embed_dim": 32, "depth": 4, "deform_num_heads": 4, "conv_inplane": 8, **options}
    model = VisionRWKVAdapter(**settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
    return model.eval()


@pytest.mark.parametrize("size", PUBLISHED)
def test_counts_are_the_published_ones(size: str) -> None:
    arguments, heads, ratio, tensors, parameters = PUBLISHED[size]
    with torch.device("meta"):
        model = VisionRWKVAdapter(**arguments, deform_num_heads=heads, deform_ratio=ratio)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert len(model.state_dict()) == tensors


def expected_names(depth: int, dim: int, inplanes: int, heads: int, points: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the adapter's part of a published file, from the description of the released code."""
    names: dict[str, tuple[int, ...]] = {"level_embed": (3, dim), "up.weight": (dim, dim, 2, 2), "up.bias": (dim,)}

    def norm(name: str, width: int, batch: bool) -> None:
        names[f"{name}.weight"] = names[f"{name}.bias"] = (width,)
        if batch:
            names[f"{name}.running_mean"] = names[f"{name}.running_var"] = (width,)
            names[f"{name}.num_batches_tracked"] = ()

    def linear(name: str, out: int, into: int) -> None:
        names[f"{name}.weight"], names[f"{name}.bias"] = (out, into), (out,)

    def attention(name: str, levels: int) -> None:
        norm(f"{name}.query_norm", dim, False)
        norm(f"{name}.feat_norm", dim, False)
        linear(f"{name}.attn.sampling_offsets", heads * levels * points * 2, dim)
        linear(f"{name}.attn.attention_weights", heads * levels * points, dim)
        linear(f"{name}.attn.value_proj", dim, dim)
        linear(f"{name}.attn.output_proj", dim, dim)

    def extractor(name: str) -> None:
        attention(name, 1)
        norm(f"{name}.ffn_norm", dim, False)
        linear(f"{name}.ffn.fc1", dim // 4, dim)
        names[f"{name}.ffn.dwconv.dwconv.weight"] = (dim // 4, 1, 3, 3)
        names[f"{name}.ffn.dwconv.dwconv.bias"] = (dim // 4,)
        linear(f"{name}.ffn.fc2", dim, dim // 4)

    widths = {"stem.0": (inplanes, 3), "stem.3": (inplanes,) * 2, "stem.6": (inplanes,) * 2}
    widths |= {
        "conv2.0": (2 * inplanes, inplanes),
        "conv3.0": (4 * inplanes, 2 * inplanes),
        "conv4.0": (4 * inplanes,) * 2,
    }
    for name, (out, into) in widths.items():
        names[f"spm.{name}.weight"] = (out, into, 3, 3)
        block, index = name.split(".")
        norm(f"spm.{block}.{int(index) + 1}", out, True)
    for index, width in enumerate((inplanes, 2 * inplanes, 4 * inplanes, 4 * inplanes), start=1):
        names[f"spm.fc{index}.weight"], names[f"spm.fc{index}.bias"] = (dim, width, 1, 1), (dim,)
        norm(f"norm{index}", dim, True)
    for index in range(4):
        attention(f"interactions.{index}.injector", 3)
        names[f"interactions.{index}.injector.gamma"] = (dim,)
        extractor(f"interactions.{index}.extractor")
    for index in range(2):
        extractor(f"interactions.3.extra_extractors.{index}")
    return names


def test_names_and_shapes_are_the_published_ones() -> None:
    model = small()
    published = {name: tuple(tensor.shape) for name, tensor in to_published(model).items()}
    own = {name: shape for name, shape in published.items() if not name.startswith(("layers.", "patch_embed.", "pos_"))}
    assert own == expected_names(4, 32, 8, 4, 4)
    assert "layers.0.ln0.weight" in published
    assert not any(name.startswith(("ln1.", "head.")) for name in published)


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_published_weights_load(prefix: str) -> None:
    source, model, x = small(), small(), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    vrwkv.load_published(model, {"state_dict": {prefix + name: value for name, value in to_published(source).items()}})
    for actual, expected in zip(model(x), source(x), strict=True):
        assert torch.equal(actual, expected)


def test_weights_of_a_bare_backbone_load() -> None:
    backbone = vrwkv.VisionRWKV(img_size=64, embed_dim=32, depth=4, num_classes=0)
    model = small()
    missing, unexpected = model.load_state_dict(to_published(backbone), strict=False)
    assert unexpected == ["ln1.weight", "ln1.bias"]
    assert all(name.startswith(("spm.", "interactions.", "level_", "up.", "norm")) for name in missing)
    assert torch.equal(model.blocks[3].spatial_mix.key.weight, backbone.blocks[3].spatial_mix.key.weight)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (70, 33), (47, 128)])
@pytest.mark.parametrize("taps", ["segmentation", "detection"])
def test_any_image_size_gives_four_maps(size: tuple[int, int], taps: str) -> None:
    model = small(taps=taps)
    maps = model(torch.randn(2, 3, *size))
    for each, stride in zip(maps, (4, 8, 16, 32), strict=True):
        assert each.shape == (2, 32, -(-size[0] // stride), -(-size[1] // stride))
        assert each.isfinite().all()


def test_one_image_too_small_for_batch_norm_is_refused_in_training_only() -> None:
    model = small()
    x = torch.randn(1, 3, 32, 20)
    with pytest.raises(ValueError, match=r"one image of 32 × 20 pixels .* batch norm at stride 32") as caught:
        model.train()(x)
    assert "\n" not in str(caught.value)
    for fitting in (torch.randn(2, 3, 32, 20), torch.randn(1, 3, 33, 20), torch.randn(1, 3, 8 + 16, 33)):
        assert model(fitting)[3].isfinite().all()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert model(x)[3].isfinite().all()
    assert model.eval()(x)[3].isfinite().all()


def test_a_padded_image_is_padded_with_zeros() -> None:
    model, x = small(), torch.randn(1, 3, 50, 40)
    padded = torch.zeros(1, 3, 64, 64)
    padded[:, :, :50, :40] = x
    for own, whole in zip(model(x), model(padded), strict=True):
        torch.testing.assert_close(own, whole[:, :, : own.shape[2], : own.shape[3]])


def test_every_parameter_learns() -> None:
    model = small(drop_path_rate=0.1).train()
    with torch.no_grad():
        for parameter in model.parameters():  # where offsets start at 0, norms before them learn nothing yet
            parameter.add_(0.05 * torch.randn_like(parameter))
    maps = model(torch.randn(4, 3, 64, 64))
    sum((each * torch.randn_like(each)).sum() for each in maps).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_without_exchange_the_tokens_are_the_backbones() -> None:
    model = small(gamma_init=0.0, taps="segmentation")
    for interaction in model.interactions:
        interaction.injector.gamma.data.zero_()
    seen: list[Tensor] = []
    model.interactions[3].extractor.feat_norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    backbone = vrwkv.VisionRWKV(img_size=64, embed_dim=32, depth=4, num_classes=0, final_norm=False).eval()
    backbone.load_state_dict(
        {name: value for name, value in model.state_dict().items() if name in backbone.state_dict()}
    )
    x = torch.randn(1, 3, 64, 96)
    model(x)
    torch.testing.assert_close(seen[0], backbone.forward_features(x))


def test_feed_forward_treats_each_level_by_itself() -> None:
    torch.manual_seed(0)
    layer, shapes = PyramidFeedForward(6, 4), [(4, 6), (2, 3), (1, 1)]
    c = torch.randn(2, 31, 6)
    whole = layer(c, shapes)
    start = 0
    for height, width in shapes:
        part = c[:, start : start + height * width]
        hidden = layer.fc1(part).transpose(1, 2).unflatten(2, (height, width))
        expected = layer.fc2(F.gelu(layer.dwconv.dwconv(hidden).flatten(2).transpose(1, 2)))
        torch.testing.assert_close(whole[:, start : start + height * width], expected)
        start += height * width


def test_starting_values() -> None:
    model = VisionRWKVAdapter(img_size=64, embed_dim=96, depth=4)
    assert 0.7 < model.level_embed.std() < 1.3
    for interaction in model.interactions:
        assert not interaction.injector.gamma.any()
        for attention in (interaction.injector.attn, interaction.extractor.attn):
            assert not attention.sampling_offsets.weight.any()
            assert attention.sampling_offsets.bias.any()
            assert not attention.attention_weights.weight.any()
    assert isinstance(model.norm1, nn.BatchNorm2d)
    assert model.spm.conv2[0].weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taps": "both"}, "taps must be one of"),
        ({"patch_size": 8}, "needs patch_size 16"),
        ({"deform_num_heads": 5}, "deform_num_heads must divide 32"),
        ({"interaction_indexes": [[0, 0], [1, 2]]}, "must be 4 pairs"),
        ({"interaction_indexes": [[0, 0], [1, 1], [2, 2], [2, 3]]}, "cover the blocks 0 to 3"),
        ({"mixer": "bi_wkv6", "class_token": True}, "without class token"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
