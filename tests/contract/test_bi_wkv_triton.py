"""The Triton backend of bi_wkv where the contract of all backends does not look: chunks, programs, steep sums."""

import runpy
from typing import Any

import pytest
import torch
from torch import Tensor
from wkv_ops_under_test import (
    WKV_OPS,
    Run,
    assert_agrees,
    output_and_gradients,
    output_gradient,
    poisoned_memory,
)

from vrwkv.ops import available_backends, bi_wkv, explain_backends, triton_runtime

if "triton" not in available_backends("bi_wkv"):
    pytest.skip("Triton cannot run here", allow_module_level=True)

from vrwkv.ops.bi_wkv import triton_chunks
from vrwkv.ops.bi_wkv.triton_chunks import CHUNK_LENGTH, LANES, cut_packed, number_of_chunks

OP = WKV_OPS[0]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RUN = Run(OP, "triton", DEVICE)
GROWING = 5e-4  # as test_growing_weights_are_right: e^100 costs float32 digits of the exponent, on every backend
VANISHING = 5e-6  # absolute; the portable backend is 6e-7 off there
NAMES = ("y", "decay", "bonus", "k", "v", "gate")


def drawn(tokens: int, dtype: torch.dtype = torch.float32, *, gate: bool = True, **sizes: Any) -> list[Tensor]:
    """decay and bonus in float32, as under autocast; k, v and the gate in `dtype`."""
    decay, bonus, k, v = RUN.draw(tokens, dtype=torch.float32, **sizes)
    opening = torch.randn(k.shape, generator=torch.Generator().manual_seed(5)).to(k)
    return [decay, bonus, *(x.to(dtype) for x in ((k, v, opening) if gate else (k, v)))]


def run(inputs: list[Tensor], grad: Tensor, backend: str, cu_seqlens: Tensor | None = None) -> list[Tensor]:
    """Output and gradients; a fifth input is the gate."""

    def function(*tensors: Tensor) -> Tensor:
        gate = tensors[4] if len(tensors) > 4 else None
        return bi_wkv(*tensors[:4], gate=gate, cu_seqlens=cu_seqlens, backend=backend)

    return output_and_gradients(function, inputs, grad)


def check(inputs: list[Tensor], lengths: list[int] | None = None, decay_tolerance: float | None = None) -> None:
    """Output and gradients against the definition, in memory full of NaN."""
    cu_seqlens = None if lengths is None else torch.tensor([0, *lengths]).cumsum(0).int()
    grad = output_gradient(OP, inputs)
    with poisoned_memory():
        actual = run(inputs, grad, "triton", None if cu_seqlens is None else cu_seqlens.to(DEVICE))
    expected = run([x.double().cpu() for x in inputs], grad.double().cpu(), "naive", cu_seqlens)
    for name, one, other in zip(NAMES, actual, expected, strict=False):
        tolerance = decay_tolerance if name == "decay" else None
        assert_agrees(one, other, name, tolerance)


def decay_gradient(inputs: list[Tensor]) -> float:
    """Largest of the definition's gradients in decay."""
    exact = [x.double().cpu() for x in inputs]
    return run(exact, output_gradient(OP, inputs).double().cpu(), "naive")[1].abs().max().item()


@pytest.mark.parametrize("tokens", [CHUNK_LENGTH - 1, CHUNK_LENGTH, CHUNK_LENGTH + 1, 2 * CHUNK_LENGTH + 1])
def test_around_the_ends_of_chunks(tokens: int) -> None:
    check(drawn(tokens))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gate_in_half_precision(dtype: torch.dtype) -> None:
    check(drawn(2 * CHUNK_LENGTH + 3, dtype))


def test_several_programs_of_odd_width() -> None:
    channels = LANES // 3 + 1
    assert triton_chunks.number_of_programs(number_of_chunks(1, 2 * CHUNK_LENGTH + 1), channels) > 1
    check(drawn(2 * CHUNK_LENGTH + 1, batch=1, head_dim=channels))


def test_not_contiguous() -> None:
    inputs = drawn(CHUNK_LENGTH + 2, batch=3)
    check([x.transpose(0, 1).contiguous().transpose(0, 1) if x.ndim > 2 else x for x in inputs])


def test_packed_images_of_one_token_and_of_whole_chunks() -> None:
    lengths = [1, CHUNK_LENGTH, 1, CHUNK_LENGTH + 1, 2]
    check(drawn(sum(lengths), batch=1), lengths)


@pytest.mark.parametrize("size", [0.9, 1.1], ids=["flat", "steep"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_both_sides_of_the_switch(sign: int, size: float) -> None:
    """Decays that fade a chunk by just less and just more than plain sums bear."""
    tokens = 3 * CHUNK_LENGTH + 1
    inputs = drawn(tokens, gate=False)
    inputs[0].fill_(sign * size * 32 * tokens / (CHUNK_LENGTH - 1))
    inputs[1].fill_(0.0)
    # Where far tokens weigh all, the true gradient of the decay is a difference of much larger terms, and nearly 0.
    check(inputs, decay_tolerance=VANISHING / decay_gradient(inputs) if sign < 0 else None)


@pytest.mark.parametrize("decay", [-23.0, -25.0, -120.0])
def test_weights_that_grow_over_an_image_and_little_over_a_chunk(decay: float) -> None:
    inputs = drawn(10 * CHUNK_LENGTH, gate=False, batch=1)
    inputs[0].fill_(decay)
    check(inputs, decay_tolerance=GROWING)


@pytest.mark.parametrize("packed", [False, True])
def test_repeats_are_the_same_to_the_bit(packed: bool) -> None:
    inputs = drawn(2 * CHUNK_LENGTH + 1, torch.bfloat16, batch=1)
    cu_seqlens = torch.tensor([0, 3, 2 * CHUNK_LENGTH + 1], dtype=torch.int32, device=DEVICE) if packed else None
    grad = output_gradient(OP, inputs)
    for one, other in zip(*(run(inputs, grad, "triton", cu_seqlens) for _ in range(2)), strict=True):
        assert torch.equal(one, other)


def test_table_of_packed_images() -> None:
    lengths = [1, CHUNK_LENGTH, CHUNK_LENGTH + 1]
    table, images = cut_packed(torch.tensor([0, *lengths]).cumsum(0).int(), sum(lengths))
    second, third = 1, 1 + CHUNK_LENGTH
    assert table[:4].tolist() == [
        [0, 0, 1],
        [second, second, CHUNK_LENGTH],
        [third, third, CHUNK_LENGTH + 1],
        [third + CHUNK_LENGTH, third, CHUNK_LENGTH + 1],
    ]
    assert (table[4:] == 0).all()
    assert images.tolist() == [[0, 1], [1, CHUNK_LENGTH], [2, CHUNK_LENGTH + 1]]


def test_one_large_image_keeps_a_gpu_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the sizes of a GPU, not those of the interpreter."""
    monkeypatch.setattr(triton_runtime, "INTERPRETED", False)
    sizes = runpy.run_path(triton_chunks.__file__)
    assert sizes["number_of_programs"](sizes["number_of_chunks"](1, 16384), 192) >= 64
    for block in ("BLOCK_LENGTH", "GRADIENT_BLOCK_LENGTH"):
        assert sizes["CHUNK_LENGTH"] % sizes[block] == 0


def test_operator_keeps_its_promises() -> None:
    inputs = drawn(CHUNK_LENGTH + 1, batch=1)
    torch.library.opcheck(
        torch.ops.vrwkv.bi_wkv_triton.default,
        (*(x.requires_grad_() for x in inputs), None),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = OP.draw(4, dtype=torch.float64)
    with pytest.raises(ValueError, match="float64"):
        bi_wkv(*inputs, backend="triton")
    with pytest.raises(ValueError, match="not on meta"):
        bi_wkv(*(x.float().to("meta") for x in inputs), backend="triton")
    monkeypatch.setattr(triton_runtime, "INTERPRETED", False)
    with pytest.raises(ValueError, match="not on cpu"):
        bi_wkv(*(x.float() for x in inputs), backend="triton")
    monkeypatch.setattr(triton_runtime, "INSTALLED", False)
    assert "not installed" in explain_backends("bi_wkv")["triton"]
