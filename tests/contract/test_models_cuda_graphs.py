"""Whole models under a CUDA graph: nothing in them waits for the device or allocates outside the graph's pool."""

from collections.abc import Callable
from typing import TypeVar

import pytest
import timm
import torch
from torch import Tensor

import vrwkv  # noqa: F401

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
Result = TypeVar("Result")


def capture(task: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
    """A graph of the task, and the results that each replay writes anew; kernels are compiled before."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            task()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = task()
    return graph, results


@pytest.mark.parametrize("size", [(224, 224), (512, 512), (200, 328)])
@pytest.mark.parametrize("name", ["vrwkv_tiny_patch16_224", "vrwkv6_tiny_patch16_224"])
@torch.inference_mode()
def test_a_replayed_graph_computes_new_images_as_eager_models_do(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).cuda().eval().bfloat16()
    images = torch.randn(2, 3, *size, device="cuda").bfloat16()
    graph, captured = capture(lambda: model(images))
    for _ in range(2):
        fresh = torch.randn_like(images)
        images.copy_(fresh)
        graph.replay()
        torch.testing.assert_close(captured, model(fresh), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vrwkv_tiny_patch16_224", "vrwkv6_tiny_patch16_224"])
def test_replayed_gradients_of_new_images_are_those_of_eager_models(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).cuda().train()
    images = torch.randn(2, 3, 224, 224, device="cuda")

    def gradients(batch: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(model(batch).square().mean(), list(model.parameters()))

    graph, captured = capture(lambda: gradients(images))
    fresh = torch.randn_like(images)
    images.copy_(fresh)
    graph.replay()
    for actual, expected in zip(captured, gradients(fresh), strict=True):
        largest = expected.abs().max().clamp_min(1e-12)
        assert ((actual - expected).abs().max() / largest).item() < 1e-4
