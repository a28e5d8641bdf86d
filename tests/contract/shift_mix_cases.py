"""Calls of shift_mix and bi_shift_mix, the places where they can run, and how results are compared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from wkv_ops_under_test import DEVICES, assert_agrees, output_and_gradients

from vrwkv.ops import available_backends, bi_shift_mix, shift_mix
from vrwkv.ops.dispatch import select_backend

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One call: the grid (None: the sequence of `bi_shift_mix`), the tokens after it, and what else is given."""

    grid: tuple[int, int] | None = (4, 6)
    extra: int = 0
    channels: int = 24
    mixtures: int = 3
    batch: int = 2
    correction: bool = False
    norm: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def draw(self, dtype: torch.dtype = torch.float64, parameters: torch.dtype | None = None, seed: int = 0) -> Inputs:
        """The tensors that the call takes."""
        generator = torch.Generator().manual_seed(seed)
        tokens = (self.grid[0] * self.grid[1] if self.grid else 7) + self.extra

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        parameters = parameters or dtype
        inputs = {
            "x": normal(self.batch, tokens, self.channels).to(dtype),
            "share": normal(self.mixtures, self.channels).to(parameters),
        }
        if self.correction:
            inputs["correction"] = normal(self.mixtures, self.batch, tokens, self.channels).to(dtype)
        if self.norm:
            inputs["norm_weight"] = (1 + normal(self.channels) / 2).to(parameters)
            inputs["norm_bias"] = normal(self.channels).to(parameters)
        return inputs

    def run(self, backend: str | None, **inputs: Tensor) -> Tensor:
        """The op on `inputs`."""
        if self.grid is None:
            return torch.stack(bi_shift_mix(**inputs, **self.options, backend=backend))
        return torch.stack(
            shift_mix(inputs.pop("x"), inputs.pop("share"), self.grid, **inputs, **self.options, backend=backend)
        )

    def function(self, backend: str | None, inputs: Inputs) -> Callable[..., Tensor]:
        """The op as a function of its tensors in the order of `inputs`."""
        return lambda *tensors: self.run(backend, **dict(zip(inputs, tensors, strict=True)))


FULL = Case(extra=2, correction=True, norm=True)
CASES = {
    "plain": Case(),
    "full": FULL,
    "norm": Case(norm=True),
    "correction": Case(correction=True, mixtures=5),
    "class_tokens": Case(extra=3, mixtures=1),
    "three_heads": Case(channels=24, mixtures=2, options={"num_heads": 3}, norm=True, extra=1),
    "uneven_heads": Case(channels=21, options={"num_heads": 3, "gamma": 0.2}, correction=True),
    "share_0.2": Case(channels=13, norm=True, options={"gamma": 0.2}),
    "share_0": Case(extra=1, norm=True, correction=True, options={"gamma": 0.0}),
    "shift_0": Case(extra=1, norm=True, correction=True, options={"shift": 0}),
    "shift_2": Case(extra=1, norm=True, correction=True, options={"shift": 2}),
    "shift_beyond_grid": Case(grid=(3, 9), extra=1, norm=True, options={"shift": 5}),
    "one_token": Case(grid=(1, 1), norm=True, correction=True),
    "one_row": Case(grid=(1, 7), norm=True),
    "one_column": Case(grid=(5, 1), correction=True, batch=1),
    "one_channel": Case(channels=1, norm=True),
    "aligned": Case(channels=64, norm=True, extra=1),
    "wide": Case(grid=(2, 3), channels=200, norm=True, correction=True, mixtures=2),
    "text": Case(grid=None, correction=True, mixtures=5),
    "text_heads": Case(grid=None, channels=30, options={"num_heads": 3}),
}


def _runs() -> list[tuple[str, str]]:
    found = []
    for backend in available_backends("shift_mix"):
        for device in DEVICES:
            try:
                select_backend("shift_mix", backend, torch.ones(1, 1, 64, device=device))
            except ValueError:
                continue
            found.append((backend, device))
    return found


RUNS = _runs()
every_run = pytest.mark.parametrize(("backend", "device"), RUNS, ids=["-".join(run) for run in RUNS])
FAST_RUNS = [run for run in RUNS if run[0] != "naive"]
fast_runs = pytest.mark.parametrize(("backend", "device"), FAST_RUNS, ids=["-".join(run) for run in FAST_RUNS])


def place(inputs: Inputs, backend: str, device: str) -> Inputs:
    """`inputs` on the device, or a skip where the backend says that it does not take them."""
    placed = {name: tensor.to(device) for name, tensor in inputs.items()}
    try:
        select_backend("shift_mix", backend, placed["x"])
    except ValueError as refusal:
        pytest.skip(str(refusal))
    return placed


def gradient_of_output(case: Case, inputs: Inputs) -> Tensor:
    shape = (case.mixtures, *inputs["x"].shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(inputs["x"])


def computed(case: Case, backend: str | None, inputs: Inputs, grad: Tensor) -> dict[str, Tensor]:
    names = ["y", *inputs]
    return dict(zip(names, output_and_gradients(case.function(backend, inputs), [*inputs.values()], grad), strict=True))


def defined(case: Case, inputs: Inputs, grad: Tensor) -> dict[str, Tensor]:
    """Output and gradients of the definition, in float64 on the CPU."""
    return computed(case, "naive", {name: x.double().cpu() for name, x in inputs.items()}, grad.double().cpu())


def assert_all_agree(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float | None = None) -> None:
    for name, tensor in actual.items():
        assert_agrees(tensor, expected[name], name, tolerance)


def stored_transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def sliced_out_of_noise(tensor: Tensor) -> Tensor:
    """Same values at every second place, and at an offset, of a larger tensor of NaN."""
    larger = tensor.new_full([2 * size + 1 for size in tensor.shape], torch.nan)
    window = larger[tuple(slice(1, None, 2) for _ in tensor.shape)]
    window.copy_(tensor)
    return window
