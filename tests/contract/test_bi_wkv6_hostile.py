"""bi_wkv6 on decays from none to total, and on tokens of very large and very small size: finite and still right."""

import pytest
import torch
from torch import Tensor
from wkv_ops_under_test import (
    Run,
    assert_all_agree,
    expected_output_and_gradients,
    output_and_gradients,
    output_gradient,
    poisoned_memory,
    runs_of,
)

INFINITY = float("inf")


def decays(kind: str, shape: torch.Size) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    spread = torch.rand(shape, generator=generator)
    return {
        "none": -20 + 0 * spread,
        "total": 100 + 0 * spread,
        "overflow": 88 + 2 * spread,  # e^88.7 is the largest float32
        "spread": -20 + 120 * spread,
        "some_total": torch.where(spread > 0.9, 100.0, -5.0),
        "infinite": torch.where(spread > 0.5, INFINITY, -INFINITY),
        "steep": 2 + 3 * spread,  # D from 6e-4 down to e^-148, which float32 rounds to 0
    }[kind]


def with_decays(run: Run, kind: str, tokens: int) -> list[Tensor]:
    r, k, v, w, u = run.draw(tokens, dtype=torch.float32)
    return [r, k, v, decays(kind, w.shape).to(w), u]


def skip_if_interpreted(run: Run, reason: str) -> None:
    if (run.backend, run.device) == ("triton", "cpu"):
        pytest.skip(f"Triton's interpreter takes 0.2 s for each head of each image; {reason}")


@pytest.mark.parametrize("kind", ["none", "total", "overflow", "spread", "some_total", "infinite", "steep"])
@pytest.mark.parametrize("tokens", [1, 2, 17, 70])
@runs_of("bi_wkv6")
def test_any_decay(run: Run, tokens: int, kind: str) -> None:
    if tokens in (2, 17):
        skip_if_interpreted(run, "1 and 70 tokens show as much")
    inputs = with_decays(run, kind, tokens)
    grad = output_gradient(run.op, inputs)
    with poisoned_memory():
        actual = output_and_gradients(run, inputs, grad)
    for name, tensor in zip(["y", *run.op.arguments], actual, strict=True):
        assert tensor.isfinite().all(), name
    expected = expected_output_and_gradients(run.op, inputs, grad, sequential=True)
    if kind == "infinite":
        expected[4] = torch.zeros_like(expected[4])
    assert_all_agree(run.op, actual, expected)


@pytest.mark.parametrize("sizes", [(1e10, 1e10, 1e10), (1e-12, 1e12, 1.0), (1e-10, 1e-10, 1e-10), (1.0, 1e-30, 1e30)])
@pytest.mark.parametrize("kind", ["none", "spread", "some_total"])
@runs_of("bi_wkv6")
def test_large_and_small_tokens(run: Run, kind: str, sizes: tuple[float, float, float]) -> None:
    if kind == "spread":
        skip_if_interpreted(run, "decays of 'none' and 'some_total' show as much")
    r, k, v, w, u = with_decays(run, kind, 50)
    inputs = [r * sizes[0], k * sizes[1], v * sizes[2], w, u]
    grad = output_gradient(run.op, inputs)
    actual = output_and_gradients(run, inputs, grad)
    for name, tensor in zip(["y", *run.op.arguments], actual, strict=True):
        assert tensor.isfinite().all(), name
    assert_all_agree(run.op, actual, expected_output_and_gradients(run.op, inputs, grad, sequential=True))


@pytest.mark.parametrize("tokens", [1, 2, 3, 16, 17, 40])
@runs_of("bi_wkv6")
def test_decay_of_the_first_and_last_token_never_counts(run: Run, tokens: int) -> None:
    inputs = run.draw(tokens, dtype=torch.float32)
    grad = output_gradient(run.op, inputs)
    with poisoned_memory():
        grad_w = output_and_gradients(run, inputs, grad)[4]
    assert (grad_w[:, 0] == 0).all()
    assert (grad_w[:, -1] == 0).all()
    if tokens > 2:
        assert (grad_w[:, 1:-1] != 0).any(dim=(2, 3)).all()


@runs_of("bi_wkv6")
def test_decay_of_each_packed_image_s_ends_never_counts(run: Run) -> None:
    inputs = run.draw(36, batch=1, dtype=torch.float32)
    cu_seqlens = torch.tensor([0, 1, 3, 20, 36], dtype=torch.int32, device=run.device)
    grad_w = output_and_gradients(run, inputs, output_gradient(run.op, inputs), cu_seqlens=cu_seqlens)[4]
    ends = [0, 1, 2, 3, 19, 20, 35]
    assert (grad_w[0, ends] == 0).all()
    assert (grad_w[0, [i for i in range(36) if i not in ends]] != 0).any(dim=(1, 2)).all()


@runs_of("bi_wkv6")
def test_total_decay_leaves_neighbours_only(run: Run) -> None:
    """A token's own decay never applies to itself, and neighbours have nothing between them: their weight is one."""
    r, k, v, w, u = run.draw(23, dtype=torch.float64)
    y = run(r, k, v, torch.full_like(w, 100.0), u)

    def weighted(keys: Tensor, values: Tensor, targets: Tensor) -> Tensor:
        return (targets * keys).sum(-1, keepdim=True) * values

    expected = weighted(u * k, v, r)
    expected[:, 1:] += weighted(k[:, :-1], v[:, :-1], r[:, 1:])
    expected[:, :-1] += weighted(k[:, 1:], v[:, 1:], r[:, :-1])
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@runs_of("bi_wkv6")
def test_half_precision_with_extreme_decays(run: Run) -> None:
    r, k, v, w, u = with_decays(run, "spread", 33)
    inputs = [r.bfloat16(), k.bfloat16(), v.bfloat16(), w, u]
    grad = output_gradient(run.op, inputs)
    actual = output_and_gradients(run, inputs, grad)
    assert_all_agree(run.op, actual, expected_output_and_gradients(run.op, inputs, grad))


@pytest.mark.parametrize("name", ["v", "w"])
@runs_of("bi_wkv6")
def test_what_is_no_number_shows(run: Run, name: str) -> None:
    inputs = run.draw(40, dtype=torch.float32)
    inputs[run.op.arguments.index(name)][0, 20, 0, 1] = float("nan")
    expected = run.op.definition(*(tensor.cpu() for tensor in inputs)).isnan()
    assert expected.any()
    assert run(*inputs).cpu()[expected].isnan().all()
