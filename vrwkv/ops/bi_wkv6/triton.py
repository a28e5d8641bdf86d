"""Bi-WKV6 in Triton: chunks of 64 tokens on tensor cores, states in float32, both directions from one read.

Forward, three launches: what each chunk adds to the states and a scan over the chunks of an image (triton_states.py),
then the outputs (triton_outputs.py). Backward, six: the states again, the adjoint states (the same two kernels on r and
the gradient), the gradient in v (the kernel of the outputs, r and k exchanged), and the other gradients
(triton_gradients.py). Nothing but the inputs is kept for the backward. No program adds to what another one wrote, so
that every result is the same to the bit each time.

Bytes per token and channel with bfloat16 inputs, head size N and chunks of L = 64 tokens, each array counted once per
kernel that touches it:

    inputs and outputs   forward 6 (updates) + 10 (outputs) = 16; backward 6 + 6 + 10 + 16 (gradients) = 38
    states               4 N / L per direction and pass, float32. Forward: written, read and written by the scan, read;
                         with two directions 32 N / L. Backward: two sets of states, one of them read twice, 72 N / L

so 48 and 110 with N = 64. Shorter chunks would move more state; longer ones spend more on pairs inside a chunk,
2 L log2(L) operations per token and channel (times the products that a split factor takes) against 8 N for the states.
"""

import torch
from torch import Tensor

from vrwkv.ops.bi_wkv6.triton_chunking import CHUNK, Chunking, Sizes
from vrwkv.ops.bi_wkv6.triton_gradients import chunk_gradients_kernel
from vrwkv.ops.bi_wkv6.triton_outputs import chunk_outputs_kernel
from vrwkv.ops.bi_wkv6.triton_states import chunk_updates_kernel, scan_chunks_kernel
from vrwkv.ops.triton_runtime import triton_operator, wrap_triton

SCAN_BLOCK = 512
LEVELS = CHUNK.bit_length() - 1  # of halving, down to single tokens


def bi_wkv6_triton(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """Bi-WKV6 on a GPU (or in Triton's interpreter); arguments as `vrwkv.ops.bi_wkv6`, heads of up to 128 channels."""
    return _bi_wkv6_triton(r, k, v, w, u, cu_seqlens)


def _chunking(v: Tensor, cu_seqlens: Tensor | None) -> Chunking:
    batch, tokens = v.shape[:2]
    return Chunking.of_batch(batch, tokens) if cu_seqlens is None else Chunking.of_packed(cu_seqlens, tokens)


def _chunk_states(rows: Tensor, columns: Tensor, w: Tensor, chunking: Chunking) -> Tensor:
    """States (2, chunks, H, N, N) that reach each chunk from the chunks before it and from those after it."""
    _, tokens, heads, size = columns.shape
    states = columns.new_empty((2, chunking.chunks, heads, size, size), dtype=torch.float32)
    whole = columns.new_empty((chunking.chunks, heads, size), dtype=torch.float32)
    sizes = Sizes.of_head(size, columns.dtype)
    wrap_triton(chunk_updates_kernel)[(chunking.chunks, heads)](
        rows,
        columns,
        w,
        states,
        whole,
        chunking.bounds,
        tokens,
        heads,
        chunking.chunks,
        chunking.chunks_per_image,
        SIZE=size,
        WIDTH=sizes.width,
        ROWS=sizes.rows,
        LENGTH=CHUNK,
        **_numerics(columns, chunking),
        num_warps=sizes.warps,
    )
    wrap_triton(scan_chunks_kernel)[(chunking.images * heads, -(-size * size // SCAN_BLOCK), 2)](
        states,
        whole,
        chunking.first_chunk,
        heads,
        chunking.chunks,
        chunking.chunks_per_image,
        SIZE=size,
        BLOCK=SCAN_BLOCK,
        PACKED=chunking.bounds is not None,
        num_warps=4,
    )
    return states


def _chunk_outputs(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, states: Tensor, chunking: Chunking) -> Tensor:
    """y (B, T, H, N), dtype of `v`."""
    _, tokens, heads, size = v.shape
    y = v.new_empty(v.shape)
    sizes = Sizes.of_head(size, v.dtype)
    wrap_triton(chunk_outputs_kernel)[(chunking.chunks, heads)](
        r,
        k,
        v,
        w,
        u,
        states,
        y,
        chunking.bounds,
        tokens,
        heads,
        chunking.chunks,
        chunking.chunks_per_image,
        SIZE=size,
        WIDTH=sizes.width,
        ROWS=sizes.rows,
        LENGTH=CHUNK,
        LEVELS=LEVELS,
        **_numerics(v, chunking),
        num_warps=sizes.warps,
    )
    return y


def _numerics(v: Tensor, chunking: Chunking) -> dict[str, bool]:
    return {
        "PACKED": chunking.bounds is not None,
        "FULL": v.dtype == torch.float32,
        "FITS": v.dtype == torch.bfloat16,
    }


def _fake_forward(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    return v.new_empty(v.shape)


def _fake_backward(
    grad: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_r, grad_k, grad_v, grad_w, grad_u = (tensor.new_empty(tensor.shape) for tensor in (r, k, v, w, u))
    return grad_r, grad_k, grad_v, grad_w, grad_u


@triton_operator("vrwkv::bi_wkv6_triton", _fake_forward)
def _bi_wkv6_triton(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    r, k, v, w, u = (tensor.contiguous() for tensor in (r, k, v, w, u))
    chunking = _chunking(v, cu_seqlens)
    return _chunk_outputs(r, k, v, w, u, _chunk_states(k, v, w, chunking), chunking)


@triton_operator("vrwkv::bi_wkv6_triton_backward", _fake_backward)
def _bi_wkv6_triton_backward(
    grad: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad, r, k, v, w, u = (tensor.contiguous() for tensor in (grad, r, k, v, w, u))
    _, tokens, heads, size = v.shape
    chunking = _chunking(v, cu_seqlens)
    states = _chunk_states(k, v, w, chunking)
    asked = _chunk_states(r, grad, w, chunking)
    grad_v = _chunk_outputs(k, r, grad, w, u, asked, chunking)
    grad_r, grad_k, grad_w = (tensor.new_empty(tensor.shape) for tensor in (r, k, w))
    partial_u = v.new_zeros((chunking.chunks, heads, size), dtype=torch.float32)
    # In float32 products for half types, too: with split factors, Triton 3.6 compiled this kernel wrongly for an H100.
    sizes = Sizes.of_head(size, torch.float32)
    wrap_triton(chunk_gradients_kernel)[(chunking.chunks, heads, -(-size // sizes.rows))](
        grad,
        r,
        k,
        v,
        w,
        u,
        states,
        asked,
        grad_r,
        grad_k,
        grad_w,
        partial_u,
        chunking.bounds,
        tokens,
        heads,
        chunking.chunks,
        chunking.chunks_per_image,
        SIZE=size,
        WIDTH=sizes.width,
        ROWS=sizes.rows,
        LENGTH=CHUNK,
        LEVELS=LEVELS,
        PACKED=chunking.bounds is not None,
        FULL=True,
        FITS=False,
        num_warps=sizes.warps,
    )
    return grad_r, grad_k, grad_v, grad_w, partial_u.sum(0).to(u.dtype)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    return (*_bi_wkv6_triton_backward(grad, *ctx.saved_tensors), None)


_bi_wkv6_triton.register_autograd(_differentiate, setup_context=_save_for_backward)
