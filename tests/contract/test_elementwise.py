"""sigmoid_gate, squared_relu, tanh and the gate inside bi_wkv, on every backend, against float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from vrwkv.ops import available_backends, bi_wkv, sigmoid_gate, squared_relu, tanh
from vrwkv.ops.dispatch import select_backend

SHAPES = [(1,), (15,), (16,), (17,), (3, 5, 7), (2, 8193), (0, 4)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
OPS: dict[str, tuple[Callable[..., Tensor], int]] = {
    "sigmoid_gate": (sigmoid_gate, 2),
    "squared_relu": (squared_relu, 1),
    "tanh": (tanh, 1),
}
RUNS = [(name, backend) for name in OPS for backend in available_backends(name)]
runs = pytest.mark.parametrize(("name", "backend"), RUNS, ids=[f"{name}-{backend}" for name, backend in RUNS])


def draw(name: str, shape: tuple[int, ...], dtype: torch.dtype, size: float = 2.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    count = OPS[name][1]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).mul(size).to(dtype) for _ in range(count)]


def output_and_gradients(function: Callable[..., Tensor], inputs: list[Tensor], **arguments: Any) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(*leaves, **arguments)
    grad = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).bfloat16().to(y.dtype)
    return [y, *torch.autograd.grad(y, leaves, grad)]


def skip_if_refused(name: str, backend: str, x: Tensor) -> None:
    try:
        select_backend(name, backend, x)
    except ValueError as refusal:
        pytest.skip(str(refusal))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@runs
def test_agrees_with_float64(name: str, backend: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = draw(name, shape, dtype)
    skip_if_refused(name, backend, inputs[0])
    actual = output_and_gradients(OPS[name][0], inputs, backend=backend)
    expected = output_and_gradients(OPS[name][0], [x.double() for x in inputs], backend="naive")
    # Half types round between torch's operators, at most three times.
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6}.get(dtype, 3 * torch.finfo(dtype).eps)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@runs
def test_extreme_and_missing_values(name: str, backend: str, dtype: torch.dtype) -> None:
    values = torch.tensor([-3e38, -100.0, -1e-30, -0.0, 0.0, 1e-30, 100.0, float("nan"), float("inf"), float("-inf")])
    inputs = [values.repeat(4).to(dtype), torch.ones(40, dtype=dtype)][: OPS[name][1]]
    skip_if_refused(name, backend, inputs[0])
    y = OPS[name][0](*inputs, backend=backend)
    torch.testing.assert_close(y, OPS[name][0](*inputs, backend="naive"), rtol=1e-2, atol=1e-37, equal_nan=True)


@runs
def test_strided_inputs_and_meta(name: str, backend: str) -> None:
    inputs = [x.transpose(0, 1) for x in draw(name, (40, 24), torch.float32)]
    y = OPS[name][0](*inputs, backend=backend)
    assert torch.equal(y, OPS[name][0](*(x.contiguous() for x in inputs), backend=backend))
    assert OPS[name][0](*(x.to("meta") for x in inputs)).shape == (24, 40)


@pytest.mark.parametrize("name", OPS)
def test_gradcheck(name: str) -> None:
    inputs = [x.requires_grad_() for x in draw(name, (3, 4), torch.float64)]
    assert gradcheck(OPS[name][0], inputs)


@pytest.mark.parametrize("shape", [(2, 16), (3, 7)], ids=str)
@pytest.mark.parametrize("name", ["squared_relu", "tanh"])
@pytest.mark.parametrize("backend", available_backends("squared_relu"))
def test_in_place_only_where_no_gradient_is_recorded(name: str, backend: str, shape: tuple[int, ...]) -> None:
    function = OPS[name][0]
    x = torch.linspace(-1, 1, shape[0] * shape[1]).view(shape)
    expected = function(x, backend="naive")
    leaf = x.clone().requires_grad_()
    held = leaf * 1
    torch.testing.assert_close(function(held, inplace=True, backend=backend), expected)
    assert torch.equal(held, x)
    with torch.no_grad():
        torch.testing.assert_close(function(x.clone(), inplace=True, backend=backend), expected)


@pytest.mark.parametrize("backend", available_backends("tanh"))
def test_tanh_keeps_its_digits_near_zero(backend: str) -> None:
    sizes = torch.logspace(-37, 1.5, 5008)
    x = torch.cat((sizes, -sizes))
    torch.testing.assert_close(tanh(x, backend=backend).double(), torch.tanh(x.double()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", OPS)
def test_compiles_whole(name: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(OPS[name][0], fullgraph=True, backend="aot_eager")
    inputs = draw(name, (4, 20), torch.float32)
    torch.testing.assert_close(compiled(*inputs), OPS[name][0](*inputs))


def test_mistakes_name_the_argument() -> None:
    with pytest.raises(ValueError, match="gate must have shape"):
        sigmoid_gate(torch.ones(2, 3), torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"gate is torch.float64 but y is torch.float32"):
        sigmoid_gate(torch.ones(2).double(), torch.ones(2))
    with pytest.raises(ValueError, match="x must be float64"):
        squared_relu(torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backend", available_backends("bi_wkv"))
def test_bi_wkv_with_a_gate(backend: str, packed: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    k, v, gate = torch.randn(3, 1, 70, 20, generator=generator, dtype=torch.float64).to(dtype)
    skip_if_refused("bi_wkv", backend, k)
    decay, bonus = torch.linspace(-20, 20, 20), torch.linspace(-3, 3, 20)
    parameters = [
        decay.to(torch.promote_types(dtype, torch.float32)),
        bonus.to(torch.promote_types(dtype, torch.float32)),
    ]
    boundaries = torch.tensor([0, 1, 30, 70], dtype=torch.int32) if packed else None

    def gated(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor, **arguments: Any) -> Tensor:
        return bi_wkv(decay, bonus, k, v, gate=gate, cu_seqlens=boundaries, **arguments)

    def definition(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        return torch.sigmoid(gate) * bi_wkv(decay, bonus, k, v, cu_seqlens=boundaries, backend="naive")

    inputs = [*parameters, k, v, gate]
    actual = output_and_gradients(gated, inputs, backend=backend)
    expected = output_and_gradients(definition, [x.double() for x in inputs])
    for one, other in zip(actual, expected, strict=True):
        rounding = torch.finfo(one.dtype).eps if one.dtype == torch.bfloat16 else 0.0
        atol = (1e-11 if dtype == torch.float64 else 2e-5) * other.abs().max().item()
        torch.testing.assert_close(one.double(), other, rtol=rounding, atol=atol)
