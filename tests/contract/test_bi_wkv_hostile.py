"""bi_wkv on keys, decays and values far beyond those of training: finite, inside the range of v, and still right."""

from itertools import product

import pytest
import torch
from torch import Tensor
from wkv_ops_under_test import (
    Run,
    assert_agrees,
    expected_output_and_gradients,
    output_and_gradients,
    output_gradient,
    poisoned_memory,
    runs_of,
)

# One channel for each pair: both are parameters of a channel. Growth as strong as -200 sends whole calls to other code.
DECAYS_OF = {"any": [-200.0, -30.0, 0.0, 30.0, 1000.0], "no_strong_growth": [-40.0, -30.0, 0.0, 30.0, 1000.0]}
BONUSES = [-100.0, 0.0, 100.0]
extreme_parameters = pytest.mark.parametrize(
    "parameters",
    [torch.tensor(list(product(decays, BONUSES))).unbind(1) for decays in DECAYS_OF.values()],
    ids=list(DECAYS_OF),
)
Parameters = tuple[Tensor, Tensor]
LONGEST_FOR_NAIVE = 200


def extreme_keys(kind: str, batch: int, tokens: int, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(tokens)
    noise = torch.randn(batch, tokens, channels, generator=generator).clamp(-3, 3)
    return {
        "spread": noise * (1e4 / 3),
        "all_large": 1e4 - noise.abs(),
        "all_small": noise.abs() - 1e4,
        "alternating": torch.where(torch.arange(tokens)[:, None] % 2 == 0, 1e4, -1e4).expand(batch, tokens, channels),
        "plain": noise,
    }[kind].contiguous()


def values_of_size(size: float, batch: int, tokens: int, channels: int) -> Tensor:
    """Half of them at the very ends of the range, so that a mean of neighbours can reach an end."""
    generator = torch.Generator().manual_seed(tokens + 1)
    return size * torch.randn(batch, tokens, channels, generator=generator).mul(1.5).clamp(-1, 1)


def skip_if_too_long(run: Run, tokens: int) -> None:
    if run.backend == "naive" and tokens > LONGEST_FOR_NAIVE:
        pytest.skip("the definition takes O(T²) memory")
    if (run.backend, run.device) == ("triton", "cpu") and tokens not in (7, 17):
        pytest.skip("Triton's interpreter takes seconds")


@extreme_parameters
@pytest.mark.parametrize("keys", ["spread", "all_large", "all_small", "alternating", "plain"])
@pytest.mark.parametrize("tokens", [1, 2, 7, 196, 1024, 16384])
@runs_of("bi_wkv")
def test_stays_within_the_range_of_v(run: Run, tokens: int, keys: str, parameters: Parameters) -> None:
    skip_if_too_long(run, tokens)
    decay, bonus = parameters
    k = extreme_keys(keys, 1, tokens, len(decay))
    for size in (1.0, 1e30):
        inputs = run.place([decay, bonus, k, values_of_size(size, 1, tokens, len(decay))])
        with poisoned_memory():
            y = run(*inputs)
        v = inputs[3]
        slack = 3e-6 * v.abs().amax(1, keepdim=True)
        assert y.isfinite().all()
        assert (y >= v.amin(1, keepdim=True) - slack).all()
        assert (y <= v.amax(1, keepdim=True) + slack).all()


@extreme_parameters
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("keys", ["spread", "all_large", "alternating"])
@runs_of("bi_wkv")
def test_stays_within_the_range_of_v_in_other_types(
    run: Run, keys: str, dtype: torch.dtype, parameters: Parameters
) -> None:
    decay, bonus = parameters
    k = extreme_keys(keys, 1, 196, len(decay)).to(dtype)
    _, _, _, v = inputs = run.place([decay, bonus, k, values_of_size(1e30, 1, 196, len(decay)).to(dtype)])
    y = run(*inputs)
    slack = 3e-6 * v.double().abs().amax(1, keepdim=True)
    assert (y.double() >= v.double().amin(1, keepdim=True) - slack).all()
    assert (y.double() <= v.double().amax(1, keepdim=True) + slack).all()


@extreme_parameters
@pytest.mark.parametrize("keys", ["spread", "all_large", "all_small", "alternating", "plain"])
@pytest.mark.parametrize("tokens", [1, 2, 7, 196, 1024, 16384])
@runs_of("bi_wkv")
def test_gradients_are_finite(run: Run, tokens: int, keys: str, parameters: Parameters) -> None:
    skip_if_too_long(run, tokens)
    decay, bonus = parameters
    k = extreme_keys(keys, 1, tokens, len(decay))
    inputs = run.place([decay, bonus, k, values_of_size(100.0, 1, tokens, len(decay))])
    grad = output_gradient(run.op, inputs)
    with poisoned_memory():
        _, *gradients = output_and_gradients(run, inputs, grad)
    for name, gradient in zip(run.op.arguments, gradients, strict=True):
        assert gradient.isfinite().all(), name
    # A mean of values moves with them: its weights sum to one for every target.
    assert_agrees(gradients[3].double().sum(1), grad.double().sum(1), "gradient of v, summed", tolerance=1e-2)


@extreme_parameters
@pytest.mark.parametrize("keys", ["spread", "all_large", "alternating", "plain"])
@pytest.mark.parametrize("tokens", [1, 16, 17, 196, 1024])
@runs_of("bi_wkv")
def test_constant_values_stay_constant(run: Run, tokens: int, keys: str, parameters: Parameters) -> None:
    skip_if_too_long(run, tokens)
    decay, bonus = parameters
    constants = torch.linspace(-3.3, 7.7, len(decay))
    v = constants.expand(1, tokens, -1).contiguous()
    inputs = run.place([decay, bonus, extreme_keys(keys, 1, tokens, len(decay)), v])
    torch.testing.assert_close(run(*inputs), inputs[3], rtol=1e-6, atol=0)


# Forms that take one maximum per chunk of tokens are exact while |decay / T| · chunk ≤ 60: both sides for 16, 32, 64.
SWITCHES = [60 * 196 / chunk for chunk in (64, 32, 16)]
DECAYS = [30.0, 60.0, *(side * switch for switch in SWITCHES for side in (0.98, 1.02)), 1000.0]


@pytest.mark.parametrize("keys", ["plain", "all_large"])
@runs_of("bi_wkv")
def test_strong_decays_are_exact(run: Run, keys: str) -> None:
    decay = torch.tensor(DECAYS)
    bonus = torch.linspace(-30, 30, len(decay))
    k = extreme_keys(keys, 2, 196, len(decay))
    inputs = run.place([decay, bonus, k, values_of_size(1.0, 2, 196, len(decay))])
    grad = output_gradient(run.op, inputs)
    expected = expected_output_and_gradients(run.op, inputs, grad)
    actual = output_and_gradients(run, inputs, grad)
    for name, one, other in zip(["y", *run.op.arguments], actual, expected, strict=True):
        # Per channel, so that a channel with small gradients counts as much as any other.
        for channel, value in enumerate(DECAYS):
            assert_agrees(one[..., channel], other[..., channel], f"{name} at decay {value}")


@pytest.mark.parametrize(("decay", "tolerance"), [(-30.0, 2e-5), (-60.0, 5e-5), (-180.0, 5e-4), (-200.0, 5e-4)])
@runs_of("bi_wkv")
def test_growing_weights_are_right(run: Run, decay: float, tolerance: float) -> None:
    """Negative decays: far tokens outweigh near ones by e^200, which costs float32 digits of the exponent."""
    inputs = run.place(
        [torch.full((3,), decay), torch.zeros(3), extreme_keys("plain", 2, 196, 3), values_of_size(1.0, 2, 196, 3)]
    )
    grad = output_gradient(run.op, inputs)
    y, grad_decay, _, grad_k, grad_v = output_and_gradients(run, inputs, grad)
    expected_y, expected_decay, _, expected_k, expected_v = expected_output_and_gradients(run.op, inputs, grad)
    assert_agrees(y, expected_y, "y", tolerance=2e-5)
    assert_agrees(grad_decay, expected_decay, "gradient of decay", tolerance)
    assert_agrees(grad_k, expected_k, "gradient of k", tolerance)
    assert_agrees(grad_v, expected_v, "gradient of v", tolerance)


@runs_of("bi_wkv")
def test_one_key_above_all_others(run: Run) -> None:
    """Without decay the token with an overwhelming key is what every token sees."""
    decay, bonus, k, v = run.draw(50, batch=1, head_dim=3, dtype=torch.float32)
    k[:, 20] = 1e4
    y = run(torch.zeros_like(decay), bonus, k, v)
    torch.testing.assert_close(y, v[:, 20:21].expand_as(v), rtol=1e-6, atol=0)


@extreme_parameters
@runs_of("bi_wkv")
def test_packed_images_stay_within_their_own_range(run: Run, parameters: Parameters) -> None:
    decay, bonus = parameters
    k = extreme_keys("spread", 1, 60, len(decay))
    v = 100 + values_of_size(1.0, 1, 60, len(decay))
    inputs = run.place([decay, bonus, k, v])
    cu_seqlens = torch.tensor([0, 1, 18, 60], dtype=torch.int32, device=run.device)
    y = run(*inputs, cu_seqlens=cu_seqlens)
    for piece_y, piece_v in zip(y.split([1, 17, 42], 1), inputs[3].split([1, 17, 42], 1), strict=True):
        assert (piece_y >= piece_v.amin(1, keepdim=True) - 1e-4).all()
        assert (piece_y <= piece_v.amax(1, keepdim=True) + 1e-4).all()
