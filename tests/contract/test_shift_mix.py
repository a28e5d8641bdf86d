"""shift_mix and bi_shift_mix on every backend against their float64 definition."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from shift_mix_cases import (
    CASES,
    FULL,
    RUNS,
    Case,
    assert_all_agree,
    computed,
    defined,
    every_run,
    gradient_of_output,
    place,
    sliced_out_of_noise,
    stored_transposed,
)
from torch import Tensor
from wkv_ops_under_test import assert_agrees, poisoned_memory

from vrwkv.ops import available_backends, bi_shift, bi_shift_mix, q_shift

HALVES = [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float16, torch.float32)]
TYPES = [
    pytest.param(CASES[name], dtype, parameters, id=f"{name}-{dtype}-{parameters}".replace("torch.", ""))
    for name in CASES
    for dtype, parameters in [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        *(HALVES if name in ("plain", "full", "uneven_heads", "text") else []),
    ]
]


@pytest.mark.parametrize(("case", "dtype", "parameters"), TYPES)
@every_run
def test_agrees_with_the_definition(
    backend: str, device: str, case: Case, dtype: torch.dtype, parameters: torch.dtype
) -> None:
    inputs = place(case.draw(dtype, parameters), backend, device)
    grad = gradient_of_output(case, inputs)
    with poisoned_memory():
        actual = computed(case, backend, inputs, grad)
    assert {name: x.dtype for name, x in actual.items()} == {
        "y": dtype,
        **{name: x.dtype for name, x in inputs.items()},
    }
    assert actual["y"].is_contiguous()
    assert_all_agree(actual, defined(case, inputs, grad))


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_the_definition_is_shift_and_lerp(norm: bool, extra: int) -> None:
    case = Case(
        extra=extra, channels=18, correction=True, norm=norm, options={"num_heads": 2, "shift": 2, "gamma": 0.2}
    )
    x, share, correction, *parameters = inputs = [*case.draw().values()]
    z = torch.nn.functional.layer_norm(x, (18,), *parameters) if norm else x
    shifted = torch.cat([q_shift(z[:, :24], (4, 6), **case.options), z[:, 24:]], dim=1)
    expected = torch.stack([torch.lerp(z, shifted, one + two) for one, two in zip(share, correction, strict=True)])
    assert_agrees(case.function("naive", case.draw())(*inputs), expected, "y", tolerance=1e-14)


def test_the_definition_is_bi_shift_and_lerp() -> None:
    x, share = Case(grid=None).draw().values()
    expected = torch.stack([torch.lerp(x, bi_shift(x, num_heads=3), weight) for weight in share])
    assert_agrees(torch.stack(bi_shift_mix(x, share, num_heads=3, backend="naive")), expected, "y", tolerance=1e-14)


def hostile(kind: str, x: Tensor) -> Tensor:
    return {
        "large_mean": 1e3 + x,
        "constant": (1e3 * x[..., :1]).expand_as(x).contiguous(),
        "tiny": 1e-30 * x,
        "tiny_differences": 1 + 1e-5 * x,
        "large": 1e4 * x,
    }[kind]


@pytest.mark.parametrize("kind", ["large_mean", "constant", "tiny", "tiny_differences", "large"])
@every_run
def test_the_norm_does_not_cancel(backend: str, device: str, kind: str) -> None:
    case = replace(FULL, channels=48)
    inputs = case.draw(torch.float32)
    inputs["x"] = hostile(kind, inputs["x"])
    inputs = place(inputs, backend, device)
    grad = gradient_of_output(case, inputs)
    assert_all_agree(computed(case, backend, inputs, grad), defined(case, inputs, grad))


@pytest.mark.parametrize("size", [1e-30, 1e30])
@every_run
def test_any_size_of_values(backend: str, device: str, size: float) -> None:
    case = Case(correction=True)
    inputs = case.draw(torch.float32)
    inputs["x"] *= size
    inputs = place(inputs, backend, device)
    grad = gradient_of_output(case, inputs)
    assert_all_agree(computed(case, backend, inputs, grad), defined(case, inputs, grad))


@pytest.mark.parametrize("layout", [stored_transposed, sliced_out_of_noise])
@every_run
def test_any_memory_layout(backend: str, device: str, layout: Callable[[Tensor], Tensor]) -> None:
    inputs = place({name: layout(x) for name, x in FULL.draw(torch.float32).items()}, backend, device)
    grad = layout(gradient_of_output(FULL, inputs))
    assert_all_agree(computed(FULL, backend, inputs, grad), defined(FULL, inputs, grad))


@every_run
def test_gradients_of_some_inputs(backend: str, device: str) -> None:
    case = replace(FULL, grid=(2, 3))
    inputs = place(case.draw(torch.float32), backend, device)
    grad = gradient_of_output(case, inputs)
    expected = computed(case, backend, inputs, grad)
    for chosen in inputs:
        leaves = {name: x.clone().requires_grad_(name == chosen) for name, x in inputs.items()}
        case.run(backend, **leaves).backward(grad)
        for name, leaf in leaves.items():
            assert (leaf.grad is not None) == (name == chosen)
        assert_agrees(leaves[chosen].grad, expected[chosen], chosen)


@every_run
def test_gradients_repeat_to_the_bit_and_inputs_stay(backend: str, device: str) -> None:
    case = replace(FULL, grid=(5, 7), channels=70)
    inputs = place(case.draw(torch.float32), backend, device)
    copies = {name: x.clone() for name, x in inputs.items()}
    grad = gradient_of_output(case, inputs)
    first, second = (computed(case, backend, inputs, grad) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(inputs[name], copies[name]) for name in inputs)


@pytest.mark.skipif("triton" not in available_backends("shift_mix"), reason="Triton cannot run here")
@pytest.mark.parametrize("case", [FULL, replace(FULL, correction=False)], ids=["corrected", "norm"])
@pytest.mark.parametrize("part", [5, 20, 100])
def test_triton_programs_of_several_steps(part: int, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of the backward pass whose last step is cut short by their end, or by that of the batch."""
    host = pytest.importorskip("vrwkv.ops.shift_mix.triton")
    monkeypatch.setattr(host, "tokens_per_program", lambda tokens: part)
    device = next(device for backend, device in reversed(RUNS) if backend == "triton")
    inputs = place(case.draw(torch.float32), "triton", device)
    grad = gradient_of_output(case, inputs)
    with poisoned_memory():
        actual = computed(case, "triton", inputs, grad)
    assert_all_agree(actual, defined(case, inputs, grad))


@pytest.mark.skipif("triton" not in available_backends("shift_mix"), reason="Triton cannot run here")
def test_triton_blocks() -> None:
    host = pytest.importorskip("vrwkv.ops.shift_mix.triton")
    assert [host.channel_block(channels) for channels in (1, 12, 100, 192, 384, 768, 1024)] == [
        1, 16, 64, 64, 128, 256, 256,
    ]  # fmt: skip
    for tokens in (1, 196, 4096, 5000, 16384, 2**20):
        part = host.tokens_per_program(tokens)
        assert 8 <= part <= 64
        assert -(-tokens // part) >= min(512, tokens // 8)


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name: str) -> None:
    case = replace(CASES[name], batch=1, channels=min(CASES[name].channels, 24))
    inputs = case.draw()
    leaves = [tensor.requires_grad_() for tensor in inputs.values()]
    assert torch.autograd.gradcheck(case.function("torch", inputs), leaves, fast_mode=True)


@every_run
def test_autocast_leaves_the_inside_alone(backend: str, device: str) -> None:
    inputs = place(FULL.draw(torch.float32), backend, device)
    grad = gradient_of_output(FULL, inputs)
    with torch.autocast(device, torch.bfloat16):
        actual = computed(FULL, backend, inputs, grad)
    assert actual["y"].dtype == torch.float32
    assert_all_agree(actual, defined(FULL, inputs, grad))


@every_run
def test_inference_mode(backend: str, device: str) -> None:
    inputs = place(FULL.draw(torch.float32), backend, device)
    expected = FULL.run(backend, **inputs)
    with torch.inference_mode():
        y = FULL.run(backend, **inputs)
        assert torch.equal(FULL.run(backend, **{name: x.clone() for name, x in inputs.items()}), expected)
    assert y.is_inference()
    assert torch.equal(y, expected)
