"""bi_wkv and bi_wkv6 under torch.compile, activation checkpointing and autocast."""

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from wkv_ops_under_test import (
    Run,
    assert_agrees,
    assert_all_agree,
    expected_output_and_gradients,
    fast_runs,
    output_and_gradients,
    output_gradient,
    runs,
)

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="Inductor compiles C++ on the CPU"
)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def mixed(run: Run) -> Callable[..., Tensor]:
    """The op between element-wise work, so that a compiler has something to do on either side."""

    def function(*inputs: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        return torch.tanh(run(*(tensor * 1.5 for tensor in inputs), cu_seqlens=cu_seqlens)) * 2

    return function


@runs
def test_compiled_equals_eager(run: Run) -> None:
    inputs = run.draw(20, dtype=torch.float32)
    grad = output_gradient(run.op, inputs)
    eager = output_and_gradients(mixed(run), inputs, grad)
    compiled = torch.compile(mixed(run), fullgraph=True, backend="aot_eager")
    assert_all_agree(run.op, output_and_gradients(compiled, inputs, grad), eager, tolerance=2e-6)


@needs_compiler
@fast_runs
def test_compiled_on_other_layouts(run: Run) -> None:
    """Inductor holds the operators to the strides that their fake registrations promise."""
    inputs = [x.transpose(0, 1).contiguous().transpose(0, 1) if x.ndim > 2 else x for x in run.draw(20)]
    grad = output_gradient(run.op, inputs)
    eager = output_and_gradients(run, inputs, grad)
    compiled = torch.compile(run.op.function, fullgraph=True, backend="inductor")
    assert_all_agree(run.op, output_and_gradients(compiled, inputs, grad, backend=run.backend), eager)


@needs_compiler
@fast_runs
def test_compiled_by_inductor(run: Run) -> None:
    inputs = run.draw(20, dtype=torch.float32)
    grad = output_gradient(run.op, inputs)
    eager = output_and_gradients(mixed(run), inputs, grad)
    compiled = torch.compile(mixed(run), fullgraph=True)
    assert_all_agree(run.op, output_and_gradients(compiled, inputs, grad), eager, tolerance=2e-6)


@fast_runs
def test_compiled_packed(run: Run) -> None:
    inputs = run.draw(20, batch=1, dtype=torch.float32)
    grad = output_gradient(run.op, inputs)
    compiled = torch.compile(mixed(run), fullgraph=True, backend="aot_eager")
    for boundaries in ([0, 1, 20], [0, 15, 20]):
        cu_seqlens = torch.tensor(boundaries, dtype=torch.int32, device=run.device)
        eager = output_and_gradients(mixed(run), inputs, grad, cu_seqlens=cu_seqlens)
        actual = output_and_gradients(compiled, inputs, grad, cu_seqlens=cu_seqlens)
        assert_all_agree(run.op, actual, eager, tolerance=2e-6)


@runs
def test_one_compilation_for_any_number_of_tokens(run: Run) -> None:
    compiled = torch.compile(mixed(run), fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for tokens in (20, 37, 300):
            inputs = [tensor.requires_grad_() for tensor in run.draw(tokens, dtype=torch.float32)]
            for name, tensor in zip(run.op.arguments, inputs, strict=True):
                if name in run.op.per_token:
                    torch._dynamo.mark_dynamic(tensor, 1)
            grad = output_gradient(run.op, inputs)
            gradients = torch.autograd.grad(compiled(*inputs), inputs, grad)
            _, *expected = output_and_gradients(mixed(run), inputs, grad)
            for name, one, other in zip(run.op.arguments, gradients, expected, strict=True):
                assert_agrees(one, other, name, tolerance=5e-6)


@pytest.mark.parametrize("reentrant", [False, True])
@runs
def test_activation_checkpointing(run: Run, reentrant: bool) -> None:
    inputs = run.draw(20, dtype=torch.float32)
    grad = output_gradient(run.op, inputs)
    expected = output_and_gradients(mixed(run), inputs, grad)
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = checkpoint(mixed(run), *leaves, use_reentrant=reentrant)
    y.backward(grad)
    for one, other in zip([y, *(tensor.grad for tensor in leaves)], expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@runs
def test_autocast_leaves_the_inside_alone(run: Run, dtype: torch.dtype) -> None:
    """Autocast would run products of matrices in bfloat16; sums over many tokens need better than that."""
    inputs = run.draw(60, dtype=dtype, head_dim=16)
    grad = output_gradient(run.op, inputs)
    expected = expected_output_and_gradients(run.op, inputs, grad)
    with torch.autocast(run.device, torch.bfloat16):
        actual = output_and_gradients(run, inputs, grad)
    assert all(tensor.dtype == dtype for tensor in actual)
    assert_all_agree(run.op, actual, expected)
    for one, other in zip(actual, expected, strict=True):
        relative_error = (one.cpu().double() - other).abs().max() / other.abs().max()
        assert relative_error < 2**-8
