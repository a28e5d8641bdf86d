"""Images per second of whole models: ours and timm's ViT, inference and training, eager and compiled."""

import functools
import gc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vrwkv  # noqa: F401  (registers the models)
from gpu.attention import attention_context, fastest_attention, use_attention
from gpu.timing import Task, Times, measure, synchronize

VRWKV, VRWKV6, VIT = "vrwkv_tiny_patch16_224", "vrwkv6_tiny_patch16_224", "vit_tiny_patch16_224"
OPS_OF_MODEL = {VRWKV: ("bi_wkv", "shift_mix"), VRWKV6: ("bi_wkv6", "shift_mix"), VIT: ()}
IMAGES = {224: 256, 512: 64, 1024: 16, 2048: 4}  # per batch, by pixels: about 60,000 tokens
_fastest_attention = functools.cache(fastest_attention)
LARGEST_DIFFERENCE = 0.1  # between compiled and eager, relative to the largest value: both round to bfloat16


@dataclass(frozen=True)
class ModelJob:
    """What to time; `whole` compiles the model at once instead of its block."""

    model: str
    images: int
    size: int
    training: bool
    compiled: bool
    whole: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        mode = "training" if self.training else "inference"
        return f"{self.model} {self.images}×{self.size} px, {mode}, {'compiled' if self.compiled else 'eager'}"


@dataclass(frozen=True)
class ModelRow:
    """One line of the table of models; numbers are missing where `note` says why.

    Attributes:
        times: seconds per batch.
        peak: bytes of device memory at most.
        attention: the kernel of the ViT's attention.
        attentions: seconds of one layer's attention with each kernel, or why it did not run.
    """

    job: ModelJob
    times: Times | None = None
    peak: int | None = None
    attention: str = ""
    attentions: dict[str, float | str] = field(default_factory=dict)
    note: str = ""

    @property
    def images_per_second(self) -> float | None:
        """Throughput."""
        return self.job.images / self.times.median if self.times else None


def time_model(job: ModelJob, device: str, seconds: float) -> list[ModelRow]:
    """One row. What is compiled must agree with what is eager."""
    torch._dynamo.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    attention, attentions = _attention_of_vit(job, device) if job.model == VIT else ("", {})
    # Its key does not hold which attention kernels are allowed, so that it could return a graph with another one.
    cache = torch._functorch.config.patch(enable_autograd_cache=False)
    with attention_context(attention) if attention else nullcontext(), cache:
        model = build(job, device)
        use_attention(model, attention)
        images = torch.randn(job.images, 3, job.size, job.size, device=device).bfloat16()
        labels = torch.randint(0, 1000, (job.images,), device=device)
        if job.compiled:
            expected = _results(model, images, labels, training=job.training)
            compile_in_place(model, whole=job.whole)
            actual = _results(model, images, labels, training=job.training)
            difference = ((actual - expected).abs().max() / expected.abs().max()).item()
            if not difference <= LARGEST_DIFFERENCE:
                note = f"not timed: compiled differs from eager by {difference:.1e}"
                return [ModelRow(job, None, None, attention, attentions, note)]
        task = training_step(model, images, labels) if job.training else inference(model, images)
        for _ in range(2):
            task()
        peak = _peak(task, device)
        if job.compiled and device == "cuda":
            task = replayed(task)
        times = measure(task, device, flush=False, seconds=seconds)
    return [ModelRow(job, times, peak, attention, attentions)]


def build(job: ModelJob, device: str) -> nn.Module:
    """The model: bfloat16 for inference, float32 parameters for training, which autocasts."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"dynamic_img_size": True} if job.model == VIT else {}
    model = timm.create_model(job.model, **options).to(device)
    return model.train() if job.training else model.bfloat16().eval()


def compile_in_place(model: Any, *, whole: bool) -> None:
    """With Inductor, for fixed sizes: the whole model, or its block, whose one graph all blocks share.

    The latter takes a tenth of the time to compile, and leaves the patch embedding, last norm and classifier eager.
    """
    for module in [model] if whole else model.blocks:
        module.compile(dynamic=False)


def _results(model: nn.Module, images: Tensor, labels: Tensor, *, training: bool) -> Tensor:
    """What compiled and eager must agree on: the logits; in training, the loss and the gradients' norm over it."""
    if not training:
        return inference(model, images)().float()
    loss = _loss(model, images, labels)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    model.zero_grad(set_to_none=True)
    return torch.stack([loss.detach(), norm])


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16):
        return F.cross_entropy(model(images), labels)


def inference(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """A forward pass without gradients."""
    return torch.inference_mode()(lambda: model(images))


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Task:
    """Forward pass and loss under autocast, backward pass, AdamW."""
    on_gpu = images.device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=on_gpu, capturable=on_gpu)

    def step() -> None:
        _loss(model, images, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def replayed(task: Task) -> Task:
    """The task as a CUDA graph, which takes the time of the device and not that of the host."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            task()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        task()
    return graph.replay


def _attention_of_vit(job: ModelJob, device: str) -> tuple[str, dict[str, float | str]]:
    return _fastest_attention(job.images, (job.size // 16) ** 2 + 1, 3, 64, backward=job.training, device=device)


def _peak(task: Task, device: str) -> int | None:
    if device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    task()
    synchronize(device)
    return torch.cuda.max_memory_allocated()
