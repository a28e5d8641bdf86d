"""How long whole models take: ours, timm's ViT of the same size, and our Linear layers alone."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypedDict

import timm
import torch
import torch.nn.functional as F
from cpu_accuracy import relative_error
from cpu_timing import Times, interleaved
from torch import Tensor, nn

from vrwkv.models import VisionRWKV
from vrwkv.ops.dispatch import ENVIRONMENT_VARIABLE

OURS, OURS_6, VIT = "vrwkv_tiny_patch16_224", "vrwkv6_tiny_patch16_224", "vit_tiny_patch16_224"
LINEARS = "Linear layers alone"
LARGEST_DIFFERENCE = 1e-4  # of outputs and of all gradients together, from those of the portable backend
CLASSES = 1000


class Comparison(TypedDict):
    """Times by model, and how far our models are from the portable backend."""

    batch: int
    size: int
    times: dict[str, Times]
    differences: dict[str, float]


@contextmanager
def portable_ops() -> Iterator[None]:
    """Models inside compute with the portable backend."""
    before = os.environ.get(ENVIRONMENT_VARIABLE)
    os.environ[ENVIRONMENT_VARIABLE] = "torch"
    try:
        yield
    finally:
        if before is None:
            del os.environ[ENVIRONMENT_VARIABLE]
        else:
            os.environ[ENVIRONMENT_VARIABLE] = before


def build(name: str) -> nn.Module:
    """A freshly initialised model, the same at every call."""
    torch.manual_seed(0)
    return timm.create_model(name, dynamic_img_size=True)


def images_of(batch: int, size: int) -> Tensor:
    """Normal random pixels (B, 3, H, W), the same at every call."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def check(name: str, what: str, compute: Callable[[], Tensor]) -> float:
    """How far `compute` is from what it gives with the portable backend, which a ViT does not have (0).

    Raises:
        SystemExit: it is too far, or not finite.
    """
    found = compute()
    if not found.isfinite().all():
        raise SystemExit(f"{name}, {what}: not finite: nothing is timed")
    if name == VIT:
        return 0.0
    with portable_ops():
        difference = relative_error(found, compute())
    if not difference <= LARGEST_DIFFERENCE:
        raise SystemExit(f"{name}, {what}: {difference:.1e} from the portable backend: not timed")
    return difference


def linear_layers(model: VisionRWKV, batch: int, size: int) -> Callable[[], None]:
    """The task of all matrix products of the patch embedding and of the blocks' Linear layers, and nothing else."""
    weight, bias = model.patch_embed.proj.weight.flatten(1), model.patch_embed.proj.bias
    tokens = (size // 16) ** 2
    layers = [module for module in model.blocks.modules() if isinstance(module, nn.Linear)]
    widths = {weight.shape[1], *(layer.in_features for layer in layers)}
    inputs = {width: torch.randn(batch, tokens, width) for width in widths}

    def run() -> None:
        F.linear(inputs[weight.shape[1]], weight, bias)
        for layer in layers:
            layer(inputs[layer.in_features])

    return torch.inference_mode()(run)


def compare_inference(names: tuple[str, ...], batch: int, size: int, repetitions: int) -> Comparison:
    """Times of a forward pass of each model, and of the Linear layers of ours."""
    images = images_of(batch, size)
    tasks: dict[str, Callable[[], object]] = {}
    differences = {}
    for name in names:
        model = build(name).eval()
        task = torch.inference_mode()(lambda model=model: model(images))
        differences[name] = check(name, f"outputs for {batch}×{size} px", task)
        tasks[name] = task
        if name == OURS:
            assert isinstance(model, VisionRWKV)
            tasks[LINEARS] = linear_layers(model, batch, size)
            tasks[LINEARS]()
    # Every task has run once by now; those that take seconds need no further warm-up.
    times = interleaved(tasks, repetitions, warm_up=size < 1024)
    return {"batch": batch, "size": size, "times": times, "differences": differences}


def compare_training(batch: int, size: int, repetitions: int) -> Comparison:
    """Times of one training step of our tiny model and of the ViT: forward, backward and AdamW, on cross-entropy.

    AdamW is fused, as `vrwkv.training` makes it, for both.
    """
    images, labels = images_of(batch, size), torch.arange(batch) % CLASSES
    tasks: dict[str, Callable[[], object]] = {}
    differences = {}
    for name in (OURS, VIT):
        model = build(name).train()
        gradients = _all_gradients(model, images, labels)
        differences[name] = check(name, f"gradients for {batch}×{size} px", gradients)
        tasks[name] = _training_step(model, images, labels)
        tasks[name]()  # makes the optimiser's state
    times = interleaved(tasks, repetitions, warm_up=size < 1024)
    return {"batch": batch, "size": size, "times": times, "differences": differences}


def _all_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """The task of computing all parameters' gradients, flattened into one vector."""
    parameters = list(model.parameters())

    def run() -> Tensor:
        loss = F.cross_entropy(model(images), labels)
        return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, parameters)])

    return run


def _training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return run


def compare_sizes(small: int, large: int, repetitions: int) -> dict[str, Times]:
    """Times of our tiny model's forward pass on one image of `small` and of `large` pixels, by "1024 px"."""
    model = build(OURS).eval()
    tasks: dict[str, Callable[[], object]] = {}
    for size in (small, large):
        images = images_of(1, size)
        task = torch.inference_mode()(lambda images=images: model(images))
        if not task().isfinite().all():
            raise SystemExit(f"{OURS}, outputs for 1×{size} px: not finite: nothing is timed")
        tasks[f"{size} px"] = task
    return interleaved(tasks, repetitions, warm_up=False)
