"""bi_wkv and bi_wkv6 as operators: derivatives by finite differences, torch's own checks, and where they must run."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from wkv_ops_under_test import (
    WKV_OPS,
    Run,
    WkvOp,
    assert_agrees,
    output_gradient,
    runs,
)

from vrwkv.ops import available_backends


def leaves(inputs: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().requires_grad_() for tensor in inputs]


@pytest.mark.parametrize("tokens", [1, 2, 5, 18])
@runs
def test_gradcheck(run: Run, tokens: int) -> None:
    inputs = leaves(run.draw(tokens, batch=2 if tokens < 10 else 1, heads=1, head_dim=2))
    assert torch.autograd.gradcheck(run, inputs)


@runs
def test_gradcheck_across_chunks(run: Run) -> None:
    """A random direction only: all of them take too long with states handed from chunk to chunk of chunks."""
    inputs = leaves(run.draw(300, batch=1, heads=1, head_dim=2))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@runs
def test_gradcheck_packed(run: Run) -> None:
    inputs = leaves(run.draw(11, batch=1, heads=1, head_dim=2))
    cu_seqlens = torch.tensor([0, 1, 8, 11], dtype=torch.int32, device=run.device)
    assert torch.autograd.gradcheck(lambda *tensors: run(*tensors, cu_seqlens=cu_seqlens), inputs)


@runs
def test_second_derivatives_are_right_or_refused(run: Run) -> None:
    inputs = leaves(run.draw(4, batch=1, heads=1, head_dim=2))
    refusal = None
    try:
        torch.autograd.gradgradcheck(run, inputs)
    except RuntimeError as error:
        refusal = str(error)
    assert refusal is None or "no autograd formula was registered" in refusal or "once_differentiable" in refusal


def operators(op: WkvOp) -> list[str]:
    """Names of the op's operators: the portable one, and that of the compiled backend."""
    backends = [backend for backend in available_backends(op.name) if backend == "cpu"]
    return [op.name, *(f"{op.name}_{backend}" for backend in backends)]


def samples(op: WkvOp) -> dict[str, list[Any]]:
    """Arguments of the operator itself, those that may be None last."""
    plain = op.draw(19, dtype=torch.float32)
    transposed = [x.transpose(0, 1).contiguous().transpose(0, 1) if x.ndim > 2 else x for x in plain]
    halves = ("k", "v", "r")
    mixed = [x.bfloat16() if name in halves else x for name, x in zip(op.arguments, plain, strict=True)]
    packed = op.draw(9, batch=1, dtype=torch.float32)
    boundaries = torch.tensor([0, 2, 9], dtype=torch.int32)
    no_gate = [None] * op.has_gate
    found = {
        "plain": [*plain, *no_gate, None],
        "one_token": [*op.draw(1, dtype=torch.float32), *no_gate, None],
        "transposed": [*transposed, *no_gate, None],
        "mixed_types": [*mixed, *no_gate, None],
        "packed": [*packed, *no_gate, boundaries],
    }
    if op.has_gate:
        found |= {"gated": [*plain, op.value(plain), None], "gated_packed": [*packed, op.value(packed), boundaries]}
    return found


SAMPLES = [(op, operator, name) for op in WKV_OPS for operator in operators(op) for name in samples(op)]
by_sample = pytest.mark.parametrize(
    ("op", "operator", "sample"), SAMPLES, ids=[f"{operator}-{name}" for _, operator, name in SAMPLES]
)


@by_sample
def test_opcheck(op: WkvOp, operator: str, sample: str) -> None:
    *tensors, cu_seqlens = samples(op)[sample]
    tensors = [tensor if tensor is None else tensor.detach().clone().requires_grad_() for tensor in tensors]
    torch.library.opcheck(getattr(torch.ops.vrwkv, operator).default, (*tensors, cu_seqlens))


@by_sample
def test_opcheck_of_the_backward(op: WkvOp, operator: str, sample: str) -> None:
    arguments = samples(op)[sample]
    grad = output_gradient(op, arguments)
    if sample == "transposed":
        grad = grad.transpose(0, 1).contiguous().transpose(0, 1)
    torch.library.opcheck(getattr(torch.ops.vrwkv, f"{operator}_backward").default, (grad, *arguments))


@runs
def test_inference_mode(run: Run) -> None:
    inputs = run.draw(20, dtype=torch.float32)
    expected = run(*inputs)
    with torch.inference_mode():
        y = run(*inputs)
        assert y.is_inference()
        assert torch.equal(run(*(tensor.clone() for tensor in inputs)), expected)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", WKV_OPS, ids=lambda op: op.name)
def test_meta_tensors(op: WkvOp, dtype: torch.dtype) -> None:
    """Shapes without memory, gradients included: models are built and measured on the meta device."""
    inputs = leaves([tensor.to("meta") for tensor in op.draw(40, dtype=dtype)])
    y = op.function(*inputs)
    assert (y.device.type, y.shape, y.dtype) == ("meta", op.value(inputs).shape, dtype)
    y.backward(torch.empty_like(y))
    assert all(tensor.grad is not None and tensor.grad.shape == tensor.shape for tensor in inputs)


class MixedImages(Dataset[Tensor]):
    """Each item is an output of the op, computed in the process that asks for it."""

    def __init__(self, op: WkvOp) -> None:
        self.op = op

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        return self.op.function(*self.op.draw(40, dtype=torch.float32, seed=index))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("op", WKV_OPS, ids=lambda op: op.name)
def test_runs_in_forked_workers(op: WkvOp) -> None:
    """A data loader's worker is forked from a process in which the op has run already, in several threads."""
    images = MixedImages(op)
    expected = [images[0], images[1]]
    loader = DataLoader(images, batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60)
    for y, other in zip(loader, expected, strict=True):
        assert_agrees(y, other, "y", tolerance=1e-6)


def forked_gradients(op: WkvOp, answer: "multiprocessing.Queue[list[float]]") -> None:
    torch.set_num_threads(1)  # the parent's pool of threads does not survive a fork
    inputs = leaves(op.draw(40))
    op.function(*inputs).square().sum().backward()
    answer.put([tensor.grad.sum().item() for tensor in inputs if tensor.grad is not None])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("op", WKV_OPS, ids=lambda op: op.name)
def test_differentiates_in_a_forked_process(op: WkvOp) -> None:
    inputs = leaves(op.draw(40))
    with torch.no_grad():
        op.function(*inputs)
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=forked_gradients, args=(op, answer))
    process.start()
    try:
        actual = answer.get(timeout=60)
    finally:
        process.join(10)
        if process.is_alive():
            process.kill()
    op.function(*inputs).square().sum().backward()
    assert actual == pytest.approx([tensor.grad.sum().item() for tensor in inputs if tensor.grad is not None])


def double_batch(function: Callable[..., Tensor], inputs: list[Tensor]) -> Tensor:
    return function(*(torch.cat([tensor, tensor]) if tensor.ndim > 2 else tensor for tensor in inputs))


@runs
def test_images_of_a_batch_are_independent(run: Run) -> None:
    inputs = run.draw(33, dtype=torch.float32)
    y = run(*inputs)
    assert_agrees(double_batch(run, inputs), torch.cat([y, y]), "y", tolerance=1e-6)
