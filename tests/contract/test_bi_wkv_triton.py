"""The Triton backend of bi_wkv where the contract of all backends does not look: chunks, programs, steep sums."""

import importlib
import math
import runpy
from types import SimpleNamespace
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

from vrwkv.ops.bi_wkv import triton_spans
from vrwkv.ops.bi_wkv.triton_programs import FLAT_LIMIT as FLAT_LIMIT_OF_KERNELS
from vrwkv.ops.bi_wkv.triton_spans import LONG, SHORT, cut, cut_packed, most_spans

OP = WKV_OPS[0]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RUN = Run(OP, "triton", DEVICE)
GROWING = 5e-4  # as test_growing_weights_are_right: e^100 costs float32 digits of the exponent, on every backend
VANISHING = 5e-6  # absolute; the portable backend is 6e-7 off there
FLAT_LIMIT = float(FLAT_LIMIT_OF_KERNELS.value)
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


@pytest.mark.parametrize(
    "tokens",
    [LONG.length - 1, LONG.length + 1, SHORT.span - 1, SHORT.span, SHORT.span + 1, LONG.span, 2 * LONG.span + 1],
)
def test_around_the_ends_of_chunks_and_spans(tokens: int) -> None:
    check(drawn(tokens))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gate_in_half_precision(dtype: torch.dtype) -> None:
    check(drawn(LONG.span + 3, dtype))


@pytest.mark.parametrize("channels", [LONG.channels - 2, LONG.channels + 1])
def test_pairs_of_channels_and_odd_numbers_of_them(channels: int) -> None:
    """Half-precision channels are read in pairs where they lie in words. One program is not full, or there are two."""
    inputs = drawn(SHORT.span + 2, torch.bfloat16, batch=1, head_dim=channels)
    check(inputs)
    shifted = torch.empty(inputs[2].numel() + 1, dtype=torch.bfloat16, device=DEVICE)[1:].view_as(inputs[2])
    check([*inputs[:2], shifted.copy_(inputs[2]), *inputs[3:]])


def test_not_contiguous() -> None:
    inputs = drawn(SHORT.span + 2, batch=3)
    check([x.transpose(0, 1).contiguous().transpose(0, 1) if x.ndim > 2 else x for x in inputs])


@pytest.mark.parametrize(
    "lengths", [[1, SHORT.length, 1, 2], [1, LONG.span, 1, LONG.span + 1, 2]], ids=["one_span_each", "several_spans"]
)
def test_packed_images_of_one_token_and_of_whole_spans(lengths: list[int]) -> None:
    check(drawn(sum(lengths), batch=1), lengths)


@pytest.mark.parametrize("size", [0.9, 1.1], ids=["flat", "steep"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_both_sides_of_the_switch(sign: int, size: float) -> None:
    """Decays that fade a span by just less and just more than plain sums bear."""
    tokens = LONG.span + 1
    inputs = drawn(tokens, gate=False, batch=1)
    inputs[0].fill_(sign * size * FLAT_LIMIT * math.log(2) * tokens / (LONG.span - 1))
    inputs[1].fill_(0.0)
    # Where far tokens weigh all, the true gradient of the decay is a difference of much larger terms, and nearly 0.
    check(inputs, decay_tolerance=VANISHING / decay_gradient(inputs) if sign < 0 else None)


def test_steep_and_flat_channels_side_by_side() -> None:
    """Each channel is computed by one of two kernels; the other leaves it alone."""
    inputs = drawn(SHORT.span, batch=2, head_dim=6)
    inputs[0].copy_(torch.tensor([0.0, 200.0, -3.0, -90.0, 10.0, 1000.0]))
    check(inputs, decay_tolerance=GROWING)


def test_steep_packed_images() -> None:
    lengths = [1, 2, SHORT.span + 3]
    inputs = drawn(sum(lengths), batch=1, head_dim=4)
    inputs[0].copy_(torch.tensor([0.0, 200.0, -3.0, 1000.0]))
    check(inputs, lengths)


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_few_tokens_and_any_decay(tokens: int) -> None:
    """Powers of a decay over tokens that do not exist would overflow."""
    inputs = drawn(tokens, head_dim=5)
    inputs[0].copy_(torch.tensor([-300.0, -40.0, 0.0, 40.0, 300.0]))
    check(inputs, decay_tolerance=GROWING)


@pytest.mark.parametrize("decay", [-23.0, -25.0, -120.0])
def test_weights_that_grow_over_an_image_and_little_over_a_span(decay: float) -> None:
    inputs = drawn(3 * LONG.span, gate=False, batch=1)
    inputs[0].fill_(decay)
    check(inputs, decay_tolerance=GROWING)


@pytest.mark.parametrize("packed", [False, True])
def test_repeats_are_the_same_to_the_bit(packed: bool) -> None:
    inputs = drawn(LONG.span + 1, torch.bfloat16, batch=1)
    cu_seqlens = torch.tensor([0, 3, LONG.span + 1], dtype=torch.int32, device=DEVICE) if packed else None
    grad = output_gradient(OP, inputs)
    for one, other in zip(*(run(inputs, grad, "triton", cu_seqlens) for _ in range(2)), strict=True):
        assert torch.equal(one, other)


def test_table_of_packed_images() -> None:
    lengths, span = [1, 5, 6], 5
    table, images = cut_packed(torch.tensor([0, *lengths]).cumsum(0).int(), sum(lengths), span)
    assert table.tolist() == [[0, 0, 1], [1, 1, 5], [6, 6, 6], [11, 6, 6], [0, 0, 0]]
    assert images.tolist() == [[0, 1], [1, 5], [6, 6]]


def test_there_is_room_for_the_sums_of_all_spans() -> None:
    for tokens in range(1, 3 * LONG.span, 7):
        assert most_spans(3, tokens) >= 3 * -(-tokens // cut(tokens).span)
        assert most_spans(1, tokens, 4) >= tokens // cut(tokens).span + 4


def test_one_large_image_keeps_a_gpu_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the sizes of a GPU, not those of the interpreter."""
    monkeypatch.setattr(triton_runtime, "INTERPRETED", False)
    sizes = runpy.run_path(triton_spans.__file__)
    for backward in (False, True):
        long, short = (sizes["cut"](tokens, backward=backward) for tokens in (16384, 196))
        assert -(-16384 // long.span) * -(-192 // long.channels) >= 64
        # The backward pass reads the sums of the forward pass's spans.
        assert (long.span, short.span) == (sizes["LONG"].span, sizes["SHORT"].span)
        assert long.length % long.block == short.length % short.block == 0


def test_only_few_programs_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of those that a GPU surely runs together; in the interpreter, which runs one at a time, none."""
    launches = importlib.import_module("vrwkv.ops.bi_wkv.triton")
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=132))
    monkeypatch.setattr(launches, "INTERPRETED", True)
    assert not launches._runs_at_once(1, gpu)
    monkeypatch.setattr(launches, "INTERPRETED", False)
    assert launches._runs_at_once(33, gpu)
    assert not launches._runs_at_once(34, gpu)
    assert not launches._runs_at_once(1, torch.device("xpu", 0))


def test_operator_keeps_its_promises() -> None:
    inputs = drawn(SHORT.span + 1, batch=1)
    importlib.import_module("vrwkv.ops.bi_wkv.triton")  # which registers it
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
