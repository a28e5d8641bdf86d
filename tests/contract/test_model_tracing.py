"""TorchScript and torch.fx of every registered image model: same outputs and gradients as the model itself."""

import io
import subprocess
import sys

import pytest
import timm
import torch
from models_under_test import WIDTHS, build, every_model, images, patch_of
from timm.models import create_feature_extractor
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@every_model
def test_torchscript(name: str) -> None:
    model = build(name).double()
    scripted = torch.jit.script(build(name).double())
    for size in ((40, 100), (33, 32)):
        x = images(name, 2, *size).double()
        torch.testing.assert_close(scripted(x), model(x))
    scripted(x).square().sum().backward()
    model(x).square().sum().backward()
    torch.testing.assert_close(gradients(scripted), gradients(model))
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(x), scripted(x))


@every_model
def test_torchscript_of_features(name: str) -> None:
    extractor, x = build(name, features_only=True, out_indices=(0, 1)), images(name, 1, 40, 70)
    torch.testing.assert_close(torch.jit.script(extractor)(x), extractor(x))


@pytest.mark.parametrize(
    "options",
    [
        {"class_token": True, "global_pool": "token"},
        {"global_pool": "avgmax", "num_classes": 0},
        {"key_norm": True, "shift_pixel": 0},
        {"dynamic_img_size": False, "final_norm": False},
    ],
    ids=lambda options: "-".join(options),
)
def test_torchscript_of_options(options: dict[str, object]) -> None:
    model, x = build("vrwkv6_tiny_patch16_224", **options), images("vrwkv6_tiny_patch16_224")
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))


def test_torchscript_of_the_published_formula() -> None:
    model, x = build("vrwkv_tiny_patch16_224", formula="published"), images("vrwkv_tiny_patch16_224")
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))


@every_model
def test_fx_extracts_any_inner_module(name: str) -> None:
    model, x = build(name), images(name, 2, 40, 70)
    nodes = ["norm_pre", "blocks.0.spatial_mix", "blocks.0.channel_mix", "blocks.0.norm2", "blocks.0", "norm"]
    seen = {}
    for node in nodes:
        model.get_submodule(node).register_forward_hook(lambda _, __, output, node=node: seen.update({node: output}))
    model(x)
    traced = create_feature_extractor(build(name), nodes)
    torch.testing.assert_close(traced(x), {node: seen[node] for node in nodes})


@every_model
def test_fx_of_the_whole_model(name: str) -> None:
    model, x = build(name).double(), images(name, 2, 40, 70).double()
    traced = create_feature_extractor(build(name).double(), ["head"])
    with torch.no_grad():
        assert traced(images(name, 1, 40, 300).double())["head"].shape == (1, 5)
    traced(x)["head"].square().sum().backward()
    model(x).square().sum().backward()
    torch.testing.assert_close(traced(x)["head"], model(x))
    torch.testing.assert_close(gradients(traced), gradients(model))
    scripted = torch.jit.script(traced)
    torch.testing.assert_close(scripted(x)["head"], model(x))


@every_model
def test_features_only_through_fx(name: str) -> None:
    model, x = build(name), images(name, 2, 40, 70)
    extractor = build(name, features_only=True, feature_cls="fx", out_indices=(0, 1))
    weights = model.state_dict()
    extractor.graph_module.load_state_dict({key: weights[key] for key in extractor.graph_module.state_dict()})
    expected = model.forward_intermediates(x, output_fmt="NLC", intermediates_only=True)
    torch.testing.assert_close(extractor(x), expected)
    assert extractor.feature_info.channels() == [WIDTHS[name]] * 2
    assert extractor.feature_info.reduction() == [patch_of(name)] * 2


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = timm.create_model("vrwkv_tiny_patch16_224", depth=2, embed_dim=48)
    modules = {path: type(module) for path, module in model.named_modules()}
    torch.jit.script(model)
    create_feature_extractor(model, ["norm"])
    assert {path: type(module) for path, module in model.named_modules()} == modules


def test_torchscript_of_a_normed_mixer_that_is_scripted_first() -> None:
    """Names that only one of two variants resolves come to light in a process that has scripted no other."""
    program = """
import torch, timm, vrwkv
model = timm.create_model("vrwkv_large_patch16_384", depth=2, embed_dim=32, head_hidden_dim=None, num_classes=5).eval()
x = torch.randn(1, 3, 48, 64)
torch.testing.assert_close(torch.jit.script(model)(x), model(x))
"""
    finished = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-1000:]
