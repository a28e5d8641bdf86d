"""head_norm_gate on every backend, against float64."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from vrwkv.ops import available_backends, head_norm_gate
from vrwkv.ops.dispatch import select_backend

BACKENDS = available_backends("head_norm_gate")
EPS = 1e-5


def draw(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    channels = shape[-1:]
    sizes = (shape, shape, channels, channels)
    return [torch.randn(size, generator=generator, dtype=torch.float64).mul(2).to(dtype) for size in sizes]


def output_and_gradients(inputs: list[Tensor], num_heads: int, backend: str) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = head_norm_gate(*leaves, num_heads=num_heads, eps=EPS, backend=backend)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).bfloat16().to(out.dtype)
    return [out, *torch.autograd.grad(out, leaves, grad)]


def assert_agrees(inputs: list[Tensor], num_heads: int, backend: str, tolerance: float) -> None:
    try:
        select_backend("head_norm_gate", backend, inputs[0])
    except ValueError as refusal:
        pytest.skip(str(refusal))
    actual = output_and_gradients(inputs, num_heads, backend)
    expected = output_and_gradients([x.double() for x in inputs], num_heads, "naive")
    for one, other, given in zip(actual, expected, [inputs[0], *inputs], strict=True):
        assert one.dtype == given.dtype
        if other.numel():
            assert (one.double() - other).abs().max() <= tolerance * other.abs().max()


TOLERANCES = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 0.016, torch.float16: 0.002}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("shape", "heads"),
    [((2, 70, 192), 3), ((1, 1, 32), 2), ((3, 5, 48), 1), ((17, 40), 2), ((64,), 4), ((2, 1500, 16), 1), ((0, 32), 2)],
    ids=str,
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_agrees_with_float64(backend: str, shape: tuple[int, ...], heads: int, dtype: torch.dtype) -> None:
    assert_agrees(draw(shape, dtype), heads, backend, TOLERANCES[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_with_float32_parameters(backend: str) -> None:
    y, gate, weight, bias = draw((2, 30, 64))
    assert_agrees([y.bfloat16(), gate.bfloat16(), weight.float(), bias.float()], 2, backend, 0.016)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_mean_and_constant_head(backend: str) -> None:
    y, gate, weight, bias = draw((1, 40, 64), torch.float32)
    assert_agrees([y + 1000, gate, weight, bias], 2, backend, 1e-4)
    y[..., :32] = 1234.567
    assert_agrees([y, gate, weight, bias], 2, backend, 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_gates(backend: str) -> None:
    y, _, weight, bias = draw((6, 32), torch.float32)
    gate = torch.tensor([-1e38, -1e4, -90.0, 90.0, 1e4, 1e30])[:, None].expand(6, 32)
    inputs = (y, gate, weight, bias * 0)  # no cancellation to magnify
    out = head_norm_gate(*inputs, num_heads=1, eps=EPS, backend=backend)
    expected = head_norm_gate(*inputs, num_heads=1, eps=EPS, backend="naive")
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-30)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_inputs(backend: str) -> None:
    inputs = draw((32, 8, 7), torch.float32)[:2] + draw((32,), torch.float32)[2:]
    inputs = [x.transpose(0, -1) if x.ndim == 3 else x for x in inputs]
    assert_agrees(inputs, 2, backend, 2e-6)


def test_gradcheck_compile_and_meta() -> None:
    def op(*inputs: Tensor) -> Tensor:
        return head_norm_gate(*inputs, num_heads=2, eps=EPS)

    assert gradcheck(op, [x.requires_grad_() for x in draw((3, 8))])
    inputs = draw((4, 32), torch.float32)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), op(*inputs), rtol=1e-5, atol=1e-5)
    assert op(*(x.to("meta") for x in inputs)).shape == (4, 32)


def test_mistakes_name_the_argument() -> None:
    y, gate, weight, bias = draw((4, 32))
    with pytest.raises(ValueError, match="num_heads must divide"):
        head_norm_gate(y, gate, weight, bias, num_heads=5, eps=EPS)
    with pytest.raises(ValueError, match="weight must have shape"):
        head_norm_gate(y, gate, weight[1:], bias, num_heads=2, eps=EPS)
    with pytest.raises(ValueError, match=r"gate is torch\.float32"):
        head_norm_gate(y, gate.float(), weight, bias, num_heads=2, eps=EPS)
