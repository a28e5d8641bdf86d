"""The gate before all timings: how far the kernels are from float64, forward and backward."""

from typing import TypedDict

import torch
from cpu_ops import OPS, inputs_of
from torch import Tensor

LARGEST_ERROR = {"forward": 2e-5, "gradient": 1e-4}
LARGEST_REFERENCE_ERROR = 1e-9  # of float64 references from the definition
STRONGEST_DECAY = 30.0
LONGEST_NAIVE = 333  # tokens; beyond, O(T²) memory rules the definition out
PAIRWISE = ("bi_wkv", "bi_wkv with gate", "bi_wkv6")  # ops whose definition looks at all pairs of tokens
SHAPES = ((2, 1, 64), (2, 196, 64), (2, 333, 64), (1, 4096, 192), (1, 16384, 192))  # B, T, C


class Errors(TypedDict):
    """Relative errors, max|a - b| / max|b| of the worst tensor."""

    forward: float
    gradient: float


def relative_error(found: Tensor, expected: Tensor) -> float:
    """max|found - expected| / max|expected|; NaN if `found` has one."""
    difference, scale = (found.double() - expected.double()).abs().max(), expected.double().abs().max()
    return (difference / scale).item() if scale > 0 else difference.item()


def outputs(op: str, inputs: list[Tensor], backend: str | None) -> list[Tensor]:
    """Output, and the gradients in the inputs that a fixed random gradient in it gives."""
    results = OPS[op].run(inputs, backend)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(y.shape, generator=generator).to(y.dtype) for y in results]
    return [torch.stack(results).detach(), *torch.autograd.grad(results, inputs, grads)]


def reference(op: str, inputs: list[Tensor]) -> list[Tensor]:
    """Float64 output and gradients: of the definition where it fits into memory, else of the portable backend."""
    precise = [tensor.detach().double().requires_grad_() for tensor in inputs]
    tokens = inputs[2].shape[1] if op in PAIRWISE else 0
    return outputs(op, precise, "naive" if tokens <= LONGEST_NAIVE else "torch")


def measure_errors(op: str, batch: int, tokens: int, channels: int) -> Errors:
    """Relative errors of the backend that runs by default."""
    inputs = inputs_of(op, batch, tokens, channels, STRONGEST_DECAY)
    expected = reference(op, inputs)
    errors = [relative_error(a, b) for a, b in zip(outputs(op, inputs, None), expected, strict=True)]
    # max() would pass over a NaN, or not, depending on where it stands.
    worst = max(errors[1:]) if all(error == error for error in errors) else float("nan")
    return {"forward": errors[0], "gradient": worst}


def check_references() -> None:
    """Hold the portable backend in float64, the reference for long sequences, to the definition.

    Raises:
        SystemExit: they differ.
    """
    for op in PAIRWISE:
        inputs = [tensor.detach().double().requires_grad_() for tensor in inputs_of(op, 1, 333, 64, STRONGEST_DECAY)]
        for found, expected in zip(outputs(op, inputs, "torch"), outputs(op, inputs, "naive"), strict=True):
            if not (error := relative_error(found, expected)) <= LARGEST_REFERENCE_ERROR:
                raise SystemExit(f"{op}: the float64 reference is {error:.1e} from its definition: nothing is timed")


def check_ops(shapes: tuple[tuple[int, int, int], ...] = SHAPES) -> dict[str, dict[str, Errors]]:
    """Errors of each op at each (B, T, C), by op and "B×T×C".

    Raises:
        SystemExit: an error above its limit, or a NaN; the message names op, shape and limit.
    """
    check_references()
    found: dict[str, dict[str, Errors]] = {op: {} for op in OPS}
    for op in OPS:
        for batch, tokens, channels in shapes:
            errors = measure_errors(op, batch, tokens, channels)
            shape = f"{batch}×{tokens}×{channels}"
            for name, error in (("forward", errors["forward"]), ("gradient", errors["gradient"])):
                if not error <= LARGEST_ERROR[name]:
                    limit = f"limit {LARGEST_ERROR[name]:.0e}"
                    raise SystemExit(f"{op}, {shape}: {name} is wrong by {error:.1e} ({limit}): nothing is timed")
            found[op][shape] = errors
    return found
