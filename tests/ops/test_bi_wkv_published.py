"""bi_wkv_published against the weights that the released kernels really give, pair by pair, and the recorded values."""

import pytest
import torch
from torch import Tensor

from vrwkv.ops import bi_wkv, bi_wkv_published


def by_pairs(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, chunks: int) -> Tensor:
    """O(T²): the effective weight of every (target, source) pair, as measured on the kernels."""
    num_tokens = k.shape[1]
    w, u = decay / num_tokens, bonus / num_tokens
    length = -(-num_tokens // chunks)
    source = torch.arange(num_tokens)[:, None]
    leak = 1 - torch.exp(w)
    rows = []
    for target in range(num_tokens):
        start = length * (target // length)
        inside = torch.exp(-w * (target - source - 1)) + (source > start) * leak * torch.exp(w * (target - source))
        weight = torch.where(source < start, torch.exp(-w * (target - source)), inside)
        weight = torch.where(source > target, torch.exp(-w * (source - target)), weight)
        weight = torch.where(source == target, torch.exp(u) + (leak if target > start else 0), weight) * torch.exp(k)
        rows.append((weight * v).sum(1) / weight.sum(1))
    return torch.stack(rows, 1)


def draw(tokens: int, channels: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 * tokens + seed)
    decay = torch.linspace(-5, 20, channels, dtype=torch.float64)
    bonus = 3 * torch.randn(channels, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 2, tokens, channels, generator=generator, dtype=torch.float64)
    return [decay, bonus, k, v]


def assert_close_relative(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    error = (actual.double() - expected).abs().max() / expected.abs().max()
    assert error < tolerance, f"relative error {error:.2e}"


@pytest.mark.parametrize("chunks", [32, 16])
@pytest.mark.parametrize("tokens", [1, 5, 32, 33, 49, 70, 196])
def test_equals_the_weights_of_the_kernels(tokens: int, chunks: int) -> None:
    inputs = draw(tokens, channels=6)
    assert_close_relative(bi_wkv_published(*inputs, chunks=chunks), by_pairs(*inputs, chunks), 1e-11)


def test_thirty_two_chunks_by_default() -> None:
    inputs = draw(70, channels=3)
    assert torch.equal(bi_wkv_published(*inputs), bi_wkv_published(*inputs, chunks=32))
    assert not torch.allclose(bi_wkv_published(*inputs), bi_wkv_published(*inputs, chunks=16), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision(dtype: torch.dtype) -> None:
    """Parameters stay float32 beside half k and v; the sums do, too."""
    decay, bonus, k, v = draw(70, channels=6)
    decay, bonus, k, v = decay.float(), bonus.float(), k.to(dtype), v.to(dtype)
    y = bi_wkv_published(decay, bonus, k, v)
    assert y.dtype == dtype
    expected = by_pairs(decay.double(), bonus.double(), k.double(), v.double(), 32)
    assert_close_relative(y, expected, 2e-5 + (torch.finfo(dtype).eps if dtype != torch.float32 else 0))


@pytest.mark.parametrize(("tokens", "chunks"), [(1, 32), (4, 32), (7, 3), (10, 2), (6, 100)])
def test_gradient_is_the_true_derivative(tokens: int, chunks: int) -> None:
    """Unlike that of the released backward, whose gk and gv belong to another formula."""
    inputs = [tensor.requires_grad_() for tensor in draw(tokens, channels=2)]
    assert torch.autograd.gradcheck(lambda *tensors: bi_wkv_published(*tensors, chunks=chunks), inputs)


def test_gradients_equal_those_of_the_pairs() -> None:
    inputs = [tensor.requires_grad_() for tensor in draw(49, channels=3)]
    grad = torch.randn(2, 49, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.autograd.grad(by_pairs(*inputs, 16), inputs, grad)
    actual = torch.autograd.grad(bi_wkv_published(*inputs, chunks=16), inputs, grad)
    for one, other in zip(actual, expected, strict=True):
        assert_close_relative(one, other, 1e-10)


def test_single_precision_gradients_of_usual_inputs() -> None:
    inputs = [tensor.requires_grad_() for tensor in draw(196, channels=4)]
    single = [tensor.detach().float().requires_grad_() for tensor in inputs]
    expected = torch.autograd.grad(bi_wkv_published(*inputs).sum(), inputs)
    actual = torch.autograd.grad(bi_wkv_published(*single).sum(), single)
    for one, other in zip(actual, expected, strict=True):
        assert_close_relative(one, other, 1e-3)


def test_zero_decay_is_the_formula_of_the_paper() -> None:
    _, bonus, k, v = draw(50, channels=4)
    zero = torch.zeros_like(bonus)
    assert_close_relative(bi_wkv_published(zero, bonus, k, v), bi_wkv(zero, bonus, k, v), 1e-12)


# T=70, w=0.05 and u=0.3 already divided, k=sin(i), v=cos(2i), gradient sin(3i+1): the reference in float64.
GOLDEN_POSITIONS = [0, 1, 2, 3, 35, 69]
GOLDEN_OUTPUTS = {
    "paper": [-0.08734422, -0.11062504, -0.11772044, -0.08904191, -0.09925148, -0.06292071],
    32: [-0.08463069, -0.10905950, -0.11648279, -0.08635754, -0.10189805, -0.06041849],
    16: [-0.08463069, -0.10905950, -0.11648279, -0.08631585, -0.09850250, -0.06410421],
}
GOLDEN_PARAMETER_GRADIENTS = {
    "paper": (1.17819442, 0.37111862),
    32: (1.54131750, 0.38860687),
    16: (1.33005305, 0.38953820),
}
GOLDEN_TOKEN_GRADIENTS_OF_THE_PAPER = (-0.00088726, -0.00019675)  # of k and v, at token 35


def golden_case(form: str | int) -> tuple[list[Tensor], Tensor, tuple[Tensor, ...]]:
    index = torch.arange(70, dtype=torch.float64)[None, :, None]
    decay, bonus = torch.tensor([0.05 * 70], dtype=torch.float64), torch.tensor([0.3 * 70], dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (decay, bonus, torch.sin(index), torch.cos(2 * index))]
    y = bi_wkv(*inputs) if form == "paper" else bi_wkv_published(*inputs, chunks=int(form))
    return inputs, y, torch.autograd.grad(y, inputs, torch.sin(3 * index + 1))


@pytest.mark.parametrize("form", GOLDEN_OUTPUTS)
def test_golden_values(form: str | int) -> None:
    _, y, (grad_decay, grad_bonus, grad_k, grad_v) = golden_case(form)
    assert y[0, GOLDEN_POSITIONS, 0].tolist() == pytest.approx(GOLDEN_OUTPUTS[form], abs=1e-8)
    # The recorded values are with respect to the divided parameters.
    divided = (70 * grad_decay.item(), 70 * grad_bonus.item())
    assert divided == pytest.approx(GOLDEN_PARAMETER_GRADIENTS[form], abs=1e-8)
    if form == "paper":
        token_35 = (grad_k[0, 35, 0].item(), grad_v[0, 35, 0].item())
        assert token_35 == pytest.approx(GOLDEN_TOKEN_GRADIENTS_OF_THE_PAPER, abs=1e-8)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("decay", torch.ones(3), "must have shape"),
        ("bonus", torch.ones(4, 1), "must have shape"),
        ("k", torch.ones(5, 4), "must have shape"),
        ("v", torch.ones(2, 6, 4), "must have shape"),
        ("v", torch.ones(2, 5, 4, dtype=torch.float64), "cast them to one dtype"),
        ("k", torch.ones(2, 5, 4, dtype=torch.int64), "must be float64"),
        ("bonus", torch.ones(4, device="meta"), "move them to one device"),
        ("decay", [1.0] * 4, "must be a tensor"),
    ],
)
def test_wrong_arguments(name: str, wrong: object, message: str) -> None:
    arguments = {"decay": torch.ones(4), "bonus": torch.ones(4), "k": torch.ones(2, 5, 4), "v": torch.ones(2, 5, 4)}
    with pytest.raises(ValueError, match=f"^{name} .*{message}"):
        bi_wkv_published(**{**arguments, name: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("chunks", [0, -1, 1.5])
def test_wrong_chunks(chunks: float) -> None:
    with pytest.raises(ValueError, match=r"^chunks must be"):
        bi_wkv_published(torch.ones(4), torch.ones(4), torch.ones(2, 5, 4), torch.ones(2, 5, 4), chunks=chunks)  # type: ignore[arg-type]
