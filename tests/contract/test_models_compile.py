"""Whole models under torch.compile: no graph break, few graphs for many image sizes, the same numbers."""

import shutil

import pytest
import timm
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import vrwkv

NAMES = [name for name in timm.list_models("*rwkv*") if "vrwkv" in name or "rwkv_clip" in name]
SIZES = [
    (64, 64),
    (96, 80),
    (80, 112),
    (128, 48),
    (70, 90),
    (160, 96),
]  # both sides change from the first to the second
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="Inductor compiles C++ on the CPU"
)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def small(name: str, depth: int = 2) -> nn.Module:
    """The registered model with a few narrow blocks, whose code is that of the whole one."""
    torch.manual_seed(0)
    heads = {"num_heads": 2} if "vrwkv6" in name or "clip" in name else {}
    head = {"head_hidden_dim": 24} if "large" in name else {}
    return timm.create_model(name, embed_dim=32, depth=depth, num_classes=5, drop_path_rate=0.0, **heads, **head)


def images(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_no_graph_break(name: str, training: bool) -> None:
    model = small(name).train(training)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    x = images(64, 64)
    with torch.set_grad_enabled(training):
        y = compiled(x)
        torch.testing.assert_close(y, model(x), rtol=1e-5, atol=1e-6)
    assert counter.frame_count == 1
    if training:
        y.sum().backward()
        gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
        model.zero_grad()
        model(x).sum().backward()
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-4, atol=1e-5, msg=key)


@needs_compiler
@pytest.mark.parametrize("name", ["vrwkv_tiny_patch16_224", "vrwkv6_tiny_patch16_224"])
def test_six_sizes_with_backward_from_two_graphs(name: str) -> None:
    model = small(name, depth=1).train()
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for height, width in SIZES:
        x = images(height, width)
        model.zero_grad()
        y = compiled(x)
        y.square().sum().backward()
        actual = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        expected = model(x)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        expected.square().sum().backward()
        for one, (key, parameter) in zip(actual, model.named_parameters(), strict=True):
            torch.testing.assert_close(
                one, parameter.grad, rtol=1e-3, atol=1e-4 * parameter.grad.abs().max().item(), msg=key
            )
    assert counter.frame_count <= 2


def test_checkpointed_blocks_compile() -> None:
    model = small("vrwkv_tiny_patch16_224").train()
    x = images(64, 64)
    expected = model(x)
    model.set_grad_checkpointing()
    y = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_registered_names_are_covered() -> None:
    assert set(NAMES) >= {"vrwkv_tiny_patch16_224", "vrwkv6_base_patch16_224", "rwkv_clip_base_patch32_224"}
    assert vrwkv.__version__
