"""The WKV ops as their contract tests see them: what to draw, what to compare with, and every backend to run.

A test that takes `runs` is written once and runs for each op, backend and device of this machine.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from vrwkv.ops import available_backends, bi_wkv, bi_wkv6
from vrwkv.ops.dispatch import select_backend

LONGEST_FOR_INTERPRETER = 200
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}  # before rounding


def draw_bi_wkv(
    tokens: int, batch: int = 2, heads: int = 1, head_dim: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    """decay, bonus, k, v of heads · head_dim channels, with decays such as training reaches."""
    generator = torch.Generator().manual_seed(1000 * seed + tokens)
    channels = heads * head_dim
    decay = 25 * torch.rand(channels, generator=generator, dtype=torch.float64) - 5
    bonus = 5 * torch.randn(channels, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, batch, tokens, channels, generator=generator, dtype=torch.float64)
    return [tensor.to(dtype) for tensor in (decay, bonus, k, v)]


def draw_bi_wkv6(
    tokens: int, batch: int = 2, heads: int = 2, head_dim: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    """r, k, v, w, u with decays per step from nearly 1 to nearly 0."""
    generator = torch.Generator().manual_seed(1000 * seed + tokens)
    r, k, v = torch.randn(3, batch, tokens, heads, head_dim, generator=generator, dtype=torch.float64)
    w = 8 * torch.rand(batch, tokens, heads, head_dim, generator=generator, dtype=torch.float64) - 6
    u = torch.randn(heads, head_dim, generator=generator, dtype=torch.float64)
    return [tensor.to(dtype) for tensor in (r, k, v, w, u)]


def bi_wkv_sequential(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Bi-WKV by one recurrence per direction, without rescaling: for float64 and moderate decays only."""
    num_tokens = k.shape[1]
    keep = torch.exp(-decay / num_tokens)
    weight = torch.exp(k - k.amax(1, keepdim=True).detach())

    def before(weight: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        numerator, denominator = torch.zeros_like(v[:, 0]), torch.zeros_like(v[:, 0])
        numerators, denominators = [], []
        for token in range(num_tokens):
            numerators.append(numerator)
            denominators.append(denominator)
            numerator = keep * numerator + weight[:, token] * v[:, token]
            denominator = keep * denominator + weight[:, token]
        return torch.stack(numerators, 1), torch.stack(denominators, 1)

    past_numerator, past_denominator = before(weight, v)
    future_numerator, future_denominator = (total.flip(1) for total in before(weight.flip(1), v.flip(1)))
    own = weight * torch.exp(bonus / num_tokens)
    return (past_numerator + own * v + future_numerator) / (past_denominator + own + future_denominator)


def bi_wkv6_sequential(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Bi-WKV6 by one recurrence per direction, for float64."""
    keep = torch.exp(-torch.exp(w.clamp(max=80)))

    def before(k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        state = torch.zeros_like(k[:, 0, :, :, None] * v[:, 0, :, None, :])
        states = []
        for token in range(k.shape[1]):
            states.append(state)
            state = keep[:, token, :, :, None] * state + k[:, token, :, :, None] * v[:, token, :, None, :]
        return torch.stack(states, 1)

    state = before(k, v, keep) + before(k.flip(1), v.flip(1), keep.flip(1)).flip(1)
    return torch.einsum("bthn,bthnm->bthm", r, state + (u * k)[..., None] * v[..., None, :])


@dataclass(frozen=True)
class WkvOp:
    """One op: its arguments in order, which of them are parameters, and how to draw and to check it."""

    name: str
    function: Callable[..., Tensor]
    sequential: Callable[..., Tensor]
    draw: Callable[..., list[Tensor]]
    arguments: tuple[str, ...]
    per_token: tuple[str, ...]
    has_gate: bool = False

    def value(self, inputs: Sequence[Tensor]) -> Tensor:
        """v among the inputs."""
        return inputs[self.arguments.index("v")]

    def definition(self, *inputs: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """The float64 oracle, O(T²)."""
        return self.function(*inputs, cu_seqlens=cu_seqlens, backend="naive")


WKV_OPS = (
    WkvOp("bi_wkv", bi_wkv, bi_wkv_sequential, draw_bi_wkv, ("decay", "bonus", "k", "v"), ("k", "v"), True),
    WkvOp("bi_wkv6", bi_wkv6, bi_wkv6_sequential, draw_bi_wkv6, ("r", "k", "v", "w", "u"), ("r", "k", "v", "w")),
)


@dataclass(frozen=True)
class Run:
    """An op on one backend and one device; call it as the op."""

    op: WkvOp
    backend: str
    device: str

    def __call__(self, *inputs: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        return self.op.function(*inputs, cu_seqlens=cu_seqlens, backend=self.backend)

    def place(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """`tensors` on the device, or a skip where the backend says that it does not take them."""
        placed = [tensor.to(self.device) for tensor in tensors]
        try:
            select_backend(self.op.name, self.backend, placed[self.op.arguments.index("k")])
        except ValueError as refusal:
            pytest.skip(str(refusal))
        return placed

    def draw(self, tokens: int, **sizes: Any) -> list[Tensor]:
        """Inputs on the device."""
        interpreted = (self.op.name, self.backend, self.device) == ("bi_wkv", "triton", "cpu")
        if interpreted and tokens > LONGEST_FOR_INTERPRETER:
            pytest.skip("Triton's interpreter takes seconds")
        if (self.op.name, self.backend, self.device) == ("bi_wkv6", "triton", "cpu") and sizes.get("batch", 1) == 1:
            sizes = {"batch": 1, "heads": 1} | sizes  # Triton's interpreter takes 0.2 s for each head of each image
        return self.place(self.op.draw(tokens, **sizes))


def _runs() -> Iterator[Any]:
    for op in WKV_OPS:
        for backend in available_backends(op.name):
            for device in DEVICES:
                try:
                    select_backend(op.name, backend, torch.ones(1, 1, 1, device=device))
                except ValueError:
                    continue
                yield pytest.param(Run(op, backend, device), id=f"{op.name}-{backend}-{device}")


RUNS = list(_runs())
runs = pytest.mark.parametrize("run", RUNS)
fast_runs = pytest.mark.parametrize("run", [run for run in RUNS if run.values[0].backend != "naive"])


def runs_of(name: str, *, naive: bool = True) -> Any:
    """`runs` of the op called `name`, with or without the O(T²) definition."""
    chosen = [run for run in RUNS if run.values[0].op.name == name and (naive or run.values[0].backend != "naive")]
    return pytest.mark.parametrize("run", chosen)


def output_and_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor, **arguments: Any
) -> list[Tensor]:
    """The output and the gradient of every input, for the gradient `grad` of the output."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(*leaves, **arguments)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype), materialize_grads=True)]


def expected_output_and_gradients(
    op: WkvOp, inputs: Sequence[Tensor], grad: Tensor, *, sequential: bool = False, **arguments: Any
) -> list[Tensor]:
    """`output_and_gradients` of the oracle, in float64 on the CPU."""
    oracle = op.sequential if sequential else op.definition
    return output_and_gradients(oracle, [tensor.double().cpu() for tensor in inputs], grad.double().cpu(), **arguments)


def output_gradient(op: WkvOp, inputs: Sequence[Tensor], seed: int = 7) -> Tensor:
    """A random gradient of the output, of v's shape, dtype and device."""
    v = op.value(inputs)
    return torch.randn(v.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(v)


def assert_agrees(actual: Tensor, expected: Tensor, name: str, tolerance: float | None = None) -> None:
    """Every element within `tolerance` of the largest of `expected`; for half types, plus one rounding of its own."""
    tolerance = TOLERANCE[actual.dtype] if tolerance is None else tolerance
    rounding = torch.finfo(actual.dtype).eps if actual.dtype in (torch.bfloat16, torch.float16) else 0.0
    torch.testing.assert_close(
        actual.detach().cpu().double(),
        expected.detach().cpu().double(),
        rtol=rounding,
        atol=tolerance * expected.abs().max().item(),
        msg=lambda message: f"{name}: {message}",
    )


def assert_all_agree(
    op: WkvOp, actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float | None = None
) -> None:
    """Output and gradients, as `output_and_gradients` returns them."""
    names = ["y", *(f"gradient of {name}" for name in op.arguments)]
    for name, one, other in zip(names, actual, expected, strict=True):
        assert_agrees(one, other, f"{op.name} {name}", tolerance)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh buffers hold NaN, so that an element which no one wrote shows."""
    fill, deterministic = (
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.are_deterministic_algorithms_enabled(),
    )
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
