"""bi_wkv and bi_wkv6 on every backend against their definition in float64: outputs and the gradient of every input."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from wkv_ops_under_test import (
    WKV_OPS,
    Run,
    WkvOp,
    assert_agrees,
    assert_all_agree,
    expected_output_and_gradients,
    output_and_gradients,
    output_gradient,
    poisoned_memory,
    runs,
)

LONGEST_FOR_DEFINITION = 257


@pytest.mark.parametrize("tokens", [2, 5, 33])
@pytest.mark.parametrize("op", WKV_OPS, ids=lambda op: op.name)
def test_recurrence_is_the_definition(op: WkvOp, tokens: int) -> None:
    inputs = op.draw(tokens)
    grad = output_gradient(op, inputs)
    assert_all_agree(
        op,
        expected_output_and_gradients(op, inputs, grad, sequential=True),
        expected_output_and_gradients(op, inputs, grad),
    )


def test_fresh_memory_is_poisoned() -> None:
    with poisoned_memory():
        assert torch.empty(3).isnan().all()
        assert torch.ones(3).new_empty(2, 2).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 3, 15, 16, 17, 31, 33, 196, 257, 1000])
@runs
def test_any_number_of_tokens(run: Run, tokens: int, dtype: torch.dtype) -> None:
    batch, head_dim = (2, 3) if tokens <= 33 else (1, 2)
    inputs = run.draw(tokens, batch=batch, heads=1, head_dim=head_dim, dtype=dtype)
    grad = output_gradient(run.op, inputs)
    expected = expected_output_and_gradients(run.op, inputs, grad, sequential=tokens > LONGEST_FOR_DEFINITION)
    with poisoned_memory():
        actual = output_and_gradients(run, inputs, grad)
    assert all(one.dtype == dtype for one in actual)
    assert_all_agree(run.op, actual, expected)


@pytest.mark.parametrize(("batch", "heads", "head_dim"), [(1, 1, 1), (3, 1, 7), (2, 3, 5), (1, 2, 33), (1, 1, 80)])
@runs
def test_any_batch_and_width(run: Run, batch: int, heads: int, head_dim: int) -> None:
    inputs = run.draw(21, batch=batch, heads=heads, head_dim=head_dim, dtype=torch.float32)
    grad = output_gradient(run.op, inputs)
    expected = expected_output_and_gradients(run.op, inputs, grad)
    with poisoned_memory():
        actual = output_and_gradients(run, inputs, grad)
    assert_all_agree(run.op, actual, expected)


@pytest.mark.parametrize("parameters", ["float32", "same"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@runs
def test_half_precision(run: Run, dtype: torch.dtype, parameters: str) -> None:
    inputs = run.draw(37, dtype=dtype)
    if parameters == "float32":
        half = ("r", "k", "v")
        inputs = [x if name in half else x.float() for name, x in zip(run.op.arguments, inputs, strict=True)]
    grad = output_gradient(run.op, inputs)
    with poisoned_memory():
        y, *gradients = output_and_gradients(run, inputs, grad)
    assert y.dtype == dtype
    assert [gradient.dtype for gradient in gradients] == [tensor.dtype for tensor in inputs]
    assert_all_agree(run.op, [y, *gradients], expected_output_and_gradients(run.op, inputs, grad))


def stored_transposed(tensor: Tensor) -> Tensor:
    """Same values, the first two axes swapped in memory (and the only axis of a vector spread out)."""
    if tensor.ndim == 1:
        return torch.stack([tensor, torch.full_like(tensor, torch.nan)], 1)[:, 0]
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


def stored_channels_first(tensor: Tensor) -> Tensor:
    """Same values, the last axis first in memory, as the maps of a convolution are."""
    return tensor.movedim(-1, 0).contiguous().movedim(0, -1)


def sliced_out_of_noise(tensor: Tensor) -> Tensor:
    """Same values at every second place, and at an offset, of a larger tensor of NaN."""
    larger = tensor.new_full([2 * size + 1 for size in tensor.shape], torch.nan)
    window = larger[tuple(slice(1, None, 2) for _ in tensor.shape)]
    window.copy_(tensor)
    return window


def expanded(tensor: Tensor) -> Tensor:
    """The first entry of the first axis, repeated with stride zero."""
    return tensor[:1].expand_as(tensor)


@pytest.mark.parametrize("layout", [stored_transposed, stored_channels_first, sliced_out_of_noise, expanded])
@runs
def test_any_memory_layout(run: Run, layout: Callable[[Tensor], Tensor]) -> None:
    inputs = [layout(tensor) for tensor in run.draw(19, batch=3, dtype=torch.float32)]
    assert not any(tensor.is_contiguous() for tensor in inputs if tensor.ndim > 1)
    grad = layout(output_gradient(run.op, inputs).contiguous())
    expected = expected_output_and_gradients(run.op, inputs, grad)
    with poisoned_memory():
        actual = output_and_gradients(run, inputs, grad)
    assert_all_agree(run.op, actual, expected)


@pytest.mark.parametrize("one", [True, False], ids=["one", "all-but-one"])
@runs
def test_gradients_of_some_inputs(run: Run, one: bool) -> None:
    inputs = run.draw(18)
    grad = output_gradient(run.op, inputs)
    _, *expected = expected_output_and_gradients(run.op, inputs, grad)
    for chosen in range(len(inputs)):
        leaves = [
            tensor.detach().clone().requires_grad_((index == chosen) == one) for index, tensor in enumerate(inputs)
        ]
        run(*leaves).backward(grad)
        for name, leaf, gradient in zip(run.op.arguments, leaves, expected, strict=True):
            assert (leaf.grad is not None) == leaf.requires_grad
            if leaf.grad is not None:
                assert_agrees(leaf.grad, gradient, name)


@runs
def test_no_graph_without_gradients(run: Run) -> None:
    inputs = run.draw(18)
    assert not run(*inputs).requires_grad
    with torch.no_grad():
        assert not run(*(tensor.requires_grad_() for tensor in inputs)).requires_grad


@runs
def test_inputs_stay_as_they_are(run: Run) -> None:
    inputs = run.draw(18, dtype=torch.float32)
    copies = [tensor.clone() for tensor in inputs]
    grad = output_gradient(run.op, inputs)
    output_and_gradients(run, inputs, grad)
    for tensor, copy in zip(inputs, copies, strict=True):
        assert torch.equal(tensor, copy)
