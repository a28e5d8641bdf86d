"""Whole models under a CUDA graph: nothing in them waits for the device or allocates outside the graph's pool."""

import pytest
import timm
import torch

import vrwkv  # noqa: F401

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.parametrize("size", [(224, 224), (512, 512), (200, 328)])
@pytest.mark.parametrize("name", ["vrwkv_tiny_patch16_224", "vrwkv6_tiny_patch16_224"])
def test_a_replayed_graph_computes_new_images_as_eager_models_do(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).cuda().eval().bfloat16()
    images = torch.randn(2, 3, *size, device="cuda").bfloat16()
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                model(images)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = model(images)
        for _ in range(2):
            fresh = torch.randn_like(images)
            images.copy_(fresh)
            graph.replay()
            torch.testing.assert_close(captured, model(fresh), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vrwkv_tiny_patch16_224", "vrwkv6_tiny_patch16_224"])
def test_a_replayed_training_step_leaves_the_gradients_of_an_eager_one(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).cuda().train()
    images = torch.randn(2, 3, 224, 224, device="cuda")

    def gradients(batch: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(model(batch).square().mean(), list(model.parameters())))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            gradients(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients(images)
    fresh = torch.randn_like(images)
    images.copy_(fresh)
    graph.replay()
    for actual, expected in zip(captured, gradients(fresh), strict=True):
        largest = expected.abs().max().clamp_min(1e-12)
        assert ((actual - expected).abs().max() / largest).item() < 1e-4
