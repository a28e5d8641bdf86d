"""The Triton backend of bi_wkv6 where the contract of all backends does not look: spans, heads, repeats, refusals."""

import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from wkv_ops_under_test import (
    WKV_OPS,
    Run,
    assert_all_agree,
    expected_output_and_gradients,
    output_and_gradients,
    output_gradient,
    poisoned_memory,
)

from vrwkv.ops import available_backends, bi_wkv6, explain_backends, triton_runtime
from vrwkv.ops.bi_wkv6.triton_spans import BLOCK, PROGRAMS, SHORTEST, TILE, Spans, walked_length
from vrwkv.ops.dispatch import select_backend

OP = WKV_OPS[1]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RUN = Run(OP, "triton", DEVICE)
needs_triton = pytest.mark.skipif("triton" not in available_backends("bi_wkv6"), reason="Triton cannot run here")


def drawn(tokens: int, dtype: torch.dtype = torch.float32, **sizes: Any) -> list[Tensor]:
    """Inputs with w and u in float32, as under autocast."""
    r, k, v, w, u = RUN.draw(tokens, dtype=torch.float32, **sizes)
    return [r.to(dtype), k.to(dtype), v.to(dtype), w, u]


def check(inputs: list[Tensor], lengths: list[int] | None = None) -> None:
    """Output and gradients against the definition, in memory full of NaN."""
    cu_seqlens = None if lengths is None else torch.tensor([0, *lengths]).cumsum(0).int()
    grad = output_gradient(OP, inputs)
    with poisoned_memory():
        actual = output_and_gradients(
            RUN, inputs, grad, cu_seqlens=None if cu_seqlens is None else cu_seqlens.to(DEVICE)
        )
    assert_all_agree(OP, actual, expected_output_and_gradients(OP, inputs, grad, cu_seqlens=cu_seqlens))


@needs_triton
@pytest.mark.parametrize("tokens", [BLOCK, BLOCK + 1, TILE + 1, SHORTEST, SHORTEST + 1, 2 * SHORTEST + 1])
def test_around_the_ends_of_blocks_and_spans(tokens: int) -> None:
    check(drawn(tokens))


@needs_triton
@pytest.mark.parametrize("head_dim", [1, 3, 16, 64, 80, 128])
def test_head_sizes(head_dim: int) -> None:
    check(drawn(SHORTEST + 3 if head_dim > 64 else TILE + 3, torch.bfloat16, head_dim=head_dim))


@needs_triton
def test_several_images_heads_and_spans() -> None:
    check(drawn(SHORTEST + 7, torch.float16, batch=2, heads=2, head_dim=5))


@needs_triton
def test_images_of_one_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where images and heads are many: no states between spans, one walk over all tokens."""
    monkeypatch.setitem(walked_length.__globals__, "PROGRAMS", 1)
    assert walked_length(1, SHORTEST + 7, 1) >= SHORTEST + 7
    check(drawn(SHORTEST + 7, batch=2))


@needs_triton
def test_strides_of_several_heads() -> None:
    check([x.transpose(0, 1).contiguous().transpose(0, 1) if x.ndim > 2 else x for x in drawn(21, heads=2)])


@needs_triton
def test_packed_images_of_one_token_and_of_whole_spans() -> None:
    check(drawn(2 * SHORTEST + 3), [1, SHORTEST, 1, SHORTEST + 1])


@needs_triton
@pytest.mark.parametrize("packed", [False, True])
def test_repeats_are_the_same_to_the_bit(packed: bool) -> None:
    inputs = drawn(SHORTEST + 9, torch.bfloat16)
    grad = output_gradient(OP, inputs)
    cu_seqlens = torch.tensor([0, 30, SHORTEST + 9], dtype=torch.int32, device=DEVICE) if packed else None
    first = output_and_gradients(RUN, inputs, grad, cu_seqlens=cu_seqlens)
    with poisoned_memory():
        second = output_and_gradients(RUN, inputs, grad, cu_seqlens=cu_seqlens)
    for name, one, other in zip(["y", *OP.arguments], first, second, strict=True):
        assert torch.equal(one, other), name


@needs_triton
def test_opcheck() -> None:
    inputs = drawn(9)
    RUN(*inputs)  # the first use registers the operators
    cu_seqlens = torch.tensor([0, 2, 9], dtype=torch.int32, device=DEVICE)
    grad = output_gradient(OP, inputs)
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    torch.library.opcheck(torch.ops.vrwkv.bi_wkv6_triton.default, (*leaves, cu_seqlens))
    torch.library.opcheck(torch.ops.vrwkv.bi_wkv6_triton_backward.default, (grad, *inputs, cu_seqlens))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("length", [TILE, SHORTEST])
def test_spans_cover_each_packed_token_once(length: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, [2, 64, 65, 200, 1000][seed], (17,), generator=generator)
    tokens = int(lengths.sum())
    cu_seqlens = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int()
    spans = Spans.of_packed(cu_seqlens, tokens, length)
    bounds, first_span = spans.bounds.tolist(), spans.first_span.tolist()
    assert len(bounds) == spans.num_spans >= first_span[-1]
    assert all(count == 0 for _, count in bounds[first_span[-1] :])
    for image, (begin, end) in enumerate(pairwise(cu_seqlens.tolist())):
        covered = [first + i for first, count in bounds[slice(*first_span[image : image + 2])] for i in range(count)]
        assert covered == list(range(begin, end))


@pytest.mark.parametrize(
    ("batch", "tokens", "heads"), [(1, 1, 1), (1, 16384, 3), (256, 196, 3), (7, 65, 5), (64, 4096, 8)]
)
def test_spans_fill_a_gpu_or_are_short(batch: int, tokens: int, heads: int) -> None:
    length = walked_length(batch, tokens, heads)
    spans = Spans.of_batch(batch, tokens, length)
    assert length % BLOCK == 0
    assert spans.per_image * length >= tokens > (spans.per_image - 1) * length
    enough = spans.num_spans * heads >= PROGRAMS / 2  # rounding to whole blocks takes some
    assert enough or length <= SHORTEST
    assert spans.per_image == 1 or batch * heads < PROGRAMS


def test_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(reason: str, *inputs: Tensor) -> None:
        with pytest.raises(ValueError, match=f"backend 'triton' cannot run bi_wkv6 here: .*{reason}"):
            bi_wkv6(*inputs, backend="triton")

    with monkeypatch.context() as patch:
        patch.setattr(triton_runtime, "INSTALLED", True)
        patch.setattr(triton_runtime, "INTERPRETED", True)
        refused("float64", *OP.draw(3))
        refused("at most 128 channels, not 129", *OP.draw(3, head_dim=129, dtype=torch.float32))
        patch.setattr(triton_runtime, "INTERPRETED", False)
        refused("on a GPU, not on cpu", *OP.draw(3, dtype=torch.float32))
        patch.setattr(triton_runtime, "INSTALLED", False)
        refused("Triton is not installed", *OP.draw(3, dtype=torch.float32))
        assert "not installed" in explain_backends("bi_wkv6")["triton"]


def test_the_interpreter_is_never_chosen_for_anyone() -> None:
    assert select_backend("bi_wkv6", None, torch.ones(1, 1, 1, 1)).name != "triton"


COMPILE = """
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vrwkv.ops.bi_wkv6.triton import WALK_REGISTERS
from vrwkv.ops.bi_wkv6.triton_gradients import span_gradients_kernel
from vrwkv.ops.bi_wkv6.triton_outputs import span_outputs_kernel
from vrwkv.ops.bi_wkv6.triton_spans import BLOCK, TILE, Sizes
from vrwkv.ops.bi_wkv6.triton_states import scan_spans_kernel, span_updates_kernel

integers = ["tokens", "heads", "spans", "length", "spans_per_image"]
common = dict.fromkeys(["bounds", "first_span"], "*i64")
common |= dict.fromkeys(["w", "u", "states", "asked", "whole", "from_future", "grad_w", "partial_u"], "*fp32")
for size, packed, dtype, input_terms, terms in (
    (80, True, "*bf16", 1, 2), (64, False, "*bf16", 1, 2), (16, True, "*fp32", 3, 3), (128, True, "*fp16", 2, 2)
):
    sizes = Sizes.of_head(size)
    constants = dict(SIZE=size, WIDTH=sizes.width, ROWS=sizes.rows, PART=512, PACKED=packed, INPUT_TERMS=input_terms,
                     TERMS=terms)
    types = common | dict.fromkeys(integers, "i32")
    if not packed:
        constants |= dict.fromkeys(integers, 1)  # as Triton compiles integer arguments that happen to be 1
        constants |= dict.fromkeys(["bounds", "first_span"])
    for kernel in (span_updates_kernel, scan_spans_kernel, span_outputs_kernel, span_gradients_kernel):
        length = TILE if kernel is span_gradients_kernel else BLOCK
        columns = sizes.rows if kernel is span_gradients_kernel else sizes.columns
        constants |= dict(LENGTH=length, LEVELS=length.bit_length() - 1, COLUMNS=columns)
        given = constants | (dict(states=None) if kernel is span_outputs_kernel and not packed else {})
        signature = {n: "constexpr" if n in given else types.get(n, dtype) for n in kernel.arg_names}
        used = {n: given[n] for n in kernel.arg_names if n in given}
        options = dict(num_warps=sizes.rows_warps if kernel is span_gradients_kernel else sizes.warps)
        if kernel is span_outputs_kernel and terms == 2:
            options |= dict(maxnreg=WALK_REGISTERS)
        compiled = triton.compile(ASTSource(kernel, signature, used), GPUTarget("cuda", 90, 32), options)
        assert "wgmma" not in compiled.asm["ptx"]
        print(compiled.metadata.shared)
"""


@pytest.mark.skipif(not triton_runtime.INSTALLED, reason="Triton is not installed")
def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path: Any) -> None:
    """The interpreter takes programs that the compiler does not, such as a variable whose shape changes in a loop."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    finished = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    if finished.returncode and "ptxas" in finished.stderr and "not found" in finished.stderr.lower():
        pytest.skip("Triton came without NVIDIA's assembler")
    assert finished.returncode == 0, finished.stderr
    shared = [int(line) for line in finished.stdout.splitlines()]
    assert len(shared) == 16
    assert max(shared) <= 227 * 1024  # of an H100 or H200
