"""Is an op right? Its output and every gradient against float64, in memory that held NaN."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gpu.cases import PER_TOKEN, Case

# Relative to the largest value; half-precision results may add their own rounding.
LARGEST_ERROR = {"output": 2e-5, "gradient": 2e-4}
LARGEST_ERROR_OF_PORTABLE = 1e-9  # in float64
LARGEST_FOR_DEFINITION = 2**26  # elements of its array of all pairs of tokens

Function = Callable[[list[Tensor]], Tensor]


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
    """Compare the Triton backend with float64; an exception counts as a failure."""
    try:
        errors, failure = compare(case, lambda inputs: case.run("triton", inputs), device)
        return Verification(case, errors, failure)
    except Exception as error:
        return Verification(case, failure=f"{type(error).__name__}: {error}")


def compare(
    case: Case, function: Function, device: str, tolerance: float | None = None
) -> tuple[dict[str, float], str | None]:
    """Errors of `function` at `case`, and what is wrong with them, if anything.

    In a large batch only the first and the last image have a gradient, so that they are all that float64 has to
    compute; the gradients of the other images must be zero.

    Args:
        tolerance: largest error, in place of those of this file.
    """
    inputs = case.draw(device)
    ends = [0, case.batch - 1] if case.batch > 2 else list(range(case.batch))
    generator = torch.Generator(device).manual_seed(1)
    drawn = torch.randn(case.output_shape, generator=generator, device=device).to(getattr(torch, case.dtype))
    grad = torch.zeros_like(drawn).index_copy_(case.image_axis, *_chosen(drawn, ends, case.image_axis))
    with poisoned_memory():
        y, *gradients = output_and_gradients(function, inputs, grad)
    expected = _exact(case, inputs, grad, ends)

    errors, wrong = {}, []
    for name, actual, exact in zip(("output", *case.arguments), (y, *gradients), expected, strict=True):
        axis = case.image_axis if name == "output" else 0
        per_image = name == "output" or name in PER_TOKEN
        error = _relative_error(_chosen(actual, ends, axis)[1] if per_image else actual, exact)
        if name in PER_TOKEN and case.batch > 2:
            error = _larger(error, _relative_error(actual[1:-1], exact[:1] * 0, exact.abs().max()))
        if name == "output" and not y.isfinite().all():
            error = math.nan
        kind = "output" if name == "output" else "gradient"
        rounding = torch.finfo(actual.dtype).eps / 2 if actual.dtype.itemsize == 2 else 0.0
        limit = LARGEST_ERROR[kind] + rounding if tolerance is None else tolerance
        errors[name] = error
        if not error <= limit:
            wrong.append(f"{'output' if kind == 'output' else f'gradient in {name}'} is off by {error:.1e} > {limit:.1e}")
    return errors, "; ".join(wrong) or None


def verify_portable(op_case: Case, device: str) -> Verification:
    """Compare the portable backend in float64, the reference at many tokens, with the definition."""
    case = replace(op_case, dtype="float64")
    inputs = [tensor.double() for tensor in case.draw(device)]
    grad = torch.randn(case.output_shape, generator=torch.Generator(device).manual_seed(1), device=device).double()
    results = [
        output_and_gradients(lambda tensors, backend=backend: case.run(backend, tensors), inputs, grad)
        for backend in ("torch", "naive")
    ]
    names = ("output", *case.arguments)
    errors = {name: _relative_error(one, two) for name, one, two in zip(names, *results, strict=True)}
    wrong = [f"float64 reference, {n}: {e:.1e}" for n, e in errors.items() if not e <= LARGEST_ERROR_OF_PORTABLE]
    return Verification(case, errors, "; ".join(wrong) or None)


def output_and_gradients(function: Function, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The output and the gradient of every input, for the gradient `grad` of the output."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


def _exact(case: Case, inputs: list[Tensor], grad: Tensor, images: list[int]) -> list[Tensor]:
    """Output and gradients in float64, of these images only."""
    chosen = [
        (_chosen(tensor, images, 0)[1] if name in PER_TOKEN else tensor).double()
        for name, tensor in zip(case.arguments, inputs, strict=True)
    ]
    longest = max(case.lengths or (case.tokens,))
    pairs = longest * case.tokens * case.channels * len(images)
    backend = "naive" if case.op == "shift_mix" or pairs <= LARGEST_FOR_DEFINITION else "torch"
    grad = _chosen(grad, images, case.image_axis)[1].double()
    return output_and_gradients(lambda tensors: case.run(backend, tensors), chosen, grad)


def _chosen(tensor: Tensor, images: list[int], axis: int) -> tuple[Tensor, Tensor]:
    index = torch.tensor(images, device=tensor.device)
    return index, tensor.index_select(axis, index)


def _relative_error(actual: Tensor, exact: Tensor, scale: Tensor | None = None) -> float:
    """Largest difference, relative to the largest of `exact`; NaN where either has one."""
    scale = exact.abs().max() if scale is None else scale
    return ((actual.double() - exact.double()).abs().max() / scale).item()


def _larger(one: float, other: float) -> float:
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh buffers hold NaN, so that an element which no one wrote shows."""
    settings = torch.utils.deterministic
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
