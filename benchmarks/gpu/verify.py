"""Is an op right? Its output and every gradient against float64, in memory that held NaN."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gpu.cases import PER_TOKEN, Case
from vrwkv.ops.triton_runtime import INTERPRETED

# Relative to the largest value; half-precision results may add their own rounding.
LARGEST_ERROR = {"output": 2e-5, "gradient": 2e-4}
ROUNDING = 1.0 if INTERPRETED else 0.5  # of half precisions, in their epsilon: the interpreter's stores truncate
LARGEST_ERROR_OF_PORTABLE = 1e-9  # in float64
ZERO = 1e-12  # of one token alone some gradients vanish, but for float64's rounding
LARGEST_FOR_DEFINITION = 2**26  # elements of its array of all pairs of tokens

Function = Callable[[list[Tensor]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Verification:
    """How far one case is from float64.

    Attributes:
        case: what was checked.
        errors: largest error of the output ("output") and of each input's gradient, relative to the largest value.
        failure: what is wrong; None if nothing is.
    """

    case: Case
    errors: dict[str, float] = field(default_factory=dict)
    failure: str | None = None


def verify(case: Case, device: str) -> Verification:
    """Compare the Triton backend with float64."""
    errors, failure = compare(case, lambda inputs: case.run("triton", inputs), device)
    return Verification(case, errors, failure)


def compare(
    case: Case, function: Function, device: str, tolerance: float | None = None
) -> tuple[dict[str, float], str | None]:
    """Errors of `function` at `case`, and what is wrong with them, if anything.

    In a large batch only the first and the last image have a gradient, so that they are all that float64 has to
    compute; the gradients of the other images must be zero.

    Args:
        tolerance: largest error, in place of those of this file.
    """
    inputs, grads = case.draw(device), case.draw_gradients(device)
    ends = slice(None, None, max(case.batch - 1, 1))  # first and last, or all there are
    for grad in grads:
        grad[1:-1] = 0
    with poisoned_memory():
        outputs, gradients = output_and_gradients(function, inputs, grads)
    exact_outputs, exact_gradients = _exact(case, inputs, grads, ends)

    errors = {"output": 0.0}
    for actual, exact in zip(outputs, exact_outputs, strict=True):
        error = relative_error(actual[ends], exact) if actual.isfinite().all() else math.nan
        errors["output"] = _larger(errors["output"], error)
    for name, actual, exact in zip(case.arguments, gradients, exact_gradients, strict=True):
        per_token = name in PER_TOKEN
        errors[name] = relative_error(actual[ends] if per_token else actual, exact)
        if per_token and case.batch > 2:
            others = actual[1:-1].abs().max().item() / max(exact.abs().max().item(), ZERO)
            errors[name] = _larger(errors[name], others)

    wrong = []
    for name, dtype in (("output", outputs[0].dtype), *zip(case.arguments, (g.dtype for g in gradients), strict=True)):
        rounding = torch.finfo(dtype).eps * ROUNDING if dtype.itemsize == 2 else 0.0
        limit = LARGEST_ERROR["output" if name == "output" else "gradient"] + rounding
        limit = limit if tolerance is None else tolerance
        if not errors[name] <= limit:
            what = "output" if name == "output" else f"gradient in {name}"
            wrong.append(f"{what} is off by {errors[name]:.1e}, more than {limit:.1e}")
    return errors, "; ".join(wrong) or None


def verify_portable(op_case: Case, device: str) -> Verification:
    """Compare the portable backend in float64, the reference at many tokens, with the definition."""
    case = replace(op_case, dtype="float64")
    inputs = [tensor.double() for tensor in case.draw(device)]
    grads = case.draw_gradients(device)
    one, one_gradients = output_and_gradients(lambda tensors: case.run("torch", tensors), inputs, grads)
    other, other_gradients = output_and_gradients(lambda tensors: case.run("naive", tensors), inputs, grads)
    errors = {"output": max(map(relative_error, one, other))}
    errors |= dict(zip(case.arguments, map(relative_error, one_gradients, other_gradients), strict=True))
    wrong = [f"float64 reference, {n}: {e:.1e}" for n, e in errors.items() if not e <= LARGEST_ERROR_OF_PORTABLE]
    return Verification(case, errors, "; ".join(wrong) or None)


def output_and_gradients(
    function: Function, inputs: list[Tensor], grads: list[Tensor]
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """The outputs and the gradient of every input, for the gradients `grads` of the outputs."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    outputs = function(leaves)
    return [y.detach() for y in outputs], torch.autograd.grad(outputs, leaves, grads)


def _exact(
    case: Case, inputs: list[Tensor], grads: list[Tensor], images: slice
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Outputs and gradients in float64, of these images only."""
    named = zip(case.arguments, inputs, strict=True)
    chosen = [(tensor[images] if name in PER_TOKEN else tensor).double() for name, tensor in named]
    pairs = max(case.lengths or (case.tokens,)) * case.tokens * case.channels * min(case.batch, 2)
    backend = "naive" if case.op == "shift_mix" or pairs <= LARGEST_FOR_DEFINITION else "torch"
    return output_and_gradients(
        lambda tensors: case.run(backend, tensors), chosen, [grad[images].double() for grad in grads]
    )


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Largest difference, relative to the largest of `exact` unless that is zero; NaN where either has one."""
    largest = exact.abs().max().item()
    return (actual.double() - exact).abs().max().item() / (1.0 if largest < ZERO else largest)


def _larger(one: float, other: float) -> float:
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh buffers hold NaN, so that an element which no one wrote shows."""
    settings: Any = torch.utils.deterministic
    fill, deterministic = settings.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    settings.fill_uninitialized_memory = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own sums, whose order is not at stake
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            settings.fill_uninitialized_memory = fill
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
