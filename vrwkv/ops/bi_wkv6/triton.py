"""Bi-WKV6 in Triton: walks over blocks of 16 tokens on tensor cores, states in registers, in float32.

Forward: one program walks over an image backwards and forwards again, once per head (triton_outputs.py). Where images
and heads are too few to fill a GPU, images are cut into spans, and two launches before it compute the states between
those: what each span adds, and a scan over the spans of an image (triton_states.py). Backward: states and adjoint
states between spans of 32 tokens (the same two kernels, on k and v and on r and the gradient), the gradient in v (the
kernel of the outputs, r and k exchanged), and the other gradients (triton_gradients.py). Nothing but the inputs is kept
for the backward. No program adds to what another one wrote, so that every result is the same to the bit each time.

Bytes per token and channel with bfloat16 inputs, each array counted once per walk that touches it: forward 8 + 4
(backwards) and 8 + 4 + 2 (forwards), of which the second walk finds up to 12 in the cache; with spans of L tokens 6 and
32 N / L more, head size N. Backward: as much for the gradient in v, 12 for updates, 16 for gradients, and 64 N / 32 for
states, which take 16 N / 32 bytes of memory per token and channel meanwhile.
"""

import torch
from torch import Tensor

from vrwkv.ops.bi_wkv6.triton_gradients import span_gradients_kernel
from vrwkv.ops.bi_wkv6.triton_outputs import span_outputs_kernel
from vrwkv.ops.bi_wkv6.triton_spans import BLOCK, TILE, Sizes, Spans, walked_length
from vrwkv.ops.bi_wkv6.triton_states import scan_spans_kernel, span_updates_kernel
from vrwkv.ops.triton_runtime import PTX, triton_operator, wrap_triton

SCAN_PART = 512  # elements of a state that a program of the scan holds
# Registers of a thread of the walks over half types: six programs of two warps (heads of more than 32) fit a
# multiprocessor instead of four, for a sixth more instructions. They wait for products and barriers most of the time.
WALK_REGISTERS = 168


def bi_wkv6_triton(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """Bi-WKV6 on a GPU (or in Triton's interpreter); arguments as `vrwkv.ops.bi_wkv6`, heads of up to 128 channels."""
    return _bi_wkv6_triton(r, k, v, w, u, cu_seqlens)


def _numerics(dtype: torch.dtype) -> dict[str, int]:
    """bfloat16 numbers that inputs, and computed factors, are the sums of."""
    terms = 3 if dtype == torch.float32 else 2
    return {"INPUT_TERMS": 1 if dtype == torch.bfloat16 else terms, "TERMS": terms}


def _span_states(rows: Tensor, columns: Tensor, w: Tensor, spans: Spans) -> Tensor:
    """States (2, spans, H, N, N) that reach each span from the spans before it and from those after it."""
    _, tokens, heads, size = columns.shape
    states = columns.new_empty((2, spans.num_spans, heads, size, size), dtype=torch.float32)
    whole = columns.new_empty((spans.num_spans, heads, size), dtype=torch.float32)
    sizes = Sizes.of_head(size)
    wrap_triton(span_updates_kernel)[(spans.num_spans, heads, -(-size // sizes.columns))](
        rows,
        columns,
        w,
        states,
        whole,
        spans.bounds,
        tokens,
        heads,
        spans.num_spans,
        spans.length,
        spans.per_image,
        SIZE=size,
        WIDTH=sizes.width,
        COLUMNS=sizes.columns,
        LENGTH=BLOCK,
        PACKED=spans.bounds is not None,
        **_numerics(columns.dtype),
        num_warps=sizes.warps,
    )
    wrap_triton(scan_spans_kernel)[(spans.images * heads, -(-size * size // SCAN_PART), 2)](
        states,
        whole,
        spans.first_span,
        heads,
        spans.num_spans,
        spans.per_image,
        SIZE=size,
        PART=SCAN_PART,
        PACKED=spans.bounds is not None,
        num_warps=4,
    )
    return states


def _outputs(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """y (B, T, H, N), dtype of `v`."""
    batch, tokens, heads, size = v.shape
    images = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    spans = Spans.of(v, cu_seqlens, walked_length(images, -(-batch * tokens // images), heads))
    # Packed images may all be one span, but how long they are is data.
    states = None if spans.per_image == 1 else _span_states(k, v, w, spans)
    y = v.new_empty(v.shape)
    sizes = Sizes.of_head(size)
    options = {"maxnreg": WALK_REGISTERS} if PTX and v.dtype != torch.float32 else {}
    wrap_triton(span_outputs_kernel)[(spans.num_spans, heads, -(-size // sizes.columns))](
        r,
        k,
        v,
        w,
        u,
        states,
        v.new_empty(v.shape, dtype=torch.float32),
        y,
        spans.bounds,
        tokens,
        heads,
        spans.num_spans,
        spans.length,
        spans.per_image,
        SIZE=size,
        WIDTH=sizes.width,
        COLUMNS=sizes.columns,
        LENGTH=BLOCK,
        LEVELS=BLOCK.bit_length() - 1,  # of halving, down to single tokens
        PACKED=spans.bounds is not None,
        **_numerics(v.dtype),
        num_warps=sizes.warps,
        **options,
    )
    return y


def _fake_forward(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    return v.new_empty(v.shape)


def _fake_backward(
    grad: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_r, grad_k, grad_v, grad_w, grad_u = (tensor.new_empty(tensor.shape) for tensor in (r, k, v, w, u))
    return grad_r, grad_k, grad_v, grad_w, grad_u


# Opaque: how many spans there are depends on sizes, for which compilers would make a graph each.
@triton_operator("vrwkv::bi_wkv6_triton", _fake_forward, opaque=True)
def _bi_wkv6_triton(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    r, k, v, w, u = (tensor.contiguous() for tensor in (r, k, v, w, u))
    return _outputs(r, k, v, w, u, cu_seqlens)


@triton_operator("vrwkv::bi_wkv6_triton_backward", _fake_backward, opaque=True)
def _bi_wkv6_triton_backward(
    grad: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad, r, k, v, w, u = (tensor.contiguous() for tensor in (grad, r, k, v, w, u))
    _, tokens, heads, size = v.shape
    grad_v = _outputs(k, r, grad, w, u, cu_seqlens)
    spans = Spans.of(v, cu_seqlens, TILE)
    states = _span_states(k, v, w, spans)
    asked = _span_states(r, grad, w, spans)
    grad_r, grad_k, grad_w = (tensor.new_empty(tensor.shape) for tensor in (r, k, w))
    partial_u = v.new_zeros((spans.num_spans, heads, size), dtype=torch.float32)
    sizes = Sizes.of_head(size)
    wrap_triton(span_gradients_kernel)[(spans.num_spans, heads, -(-size // sizes.rows))](
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
        spans.bounds,
        tokens,
        heads,
        spans.num_spans,
        spans.per_image,
        SIZE=size,
        ROWS=sizes.rows,
        COLUMNS=sizes.rows,
        LENGTH=TILE,
        LEVELS=TILE.bit_length() - 1,
        PACKED=spans.bounds is not None,
        **_numerics(v.dtype),
        num_warps=sizes.rows_warps,
    )
    return grad_r, grad_k, grad_v, grad_w, partial_u.sum(0).to(u.dtype)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    return (*_bi_wkv6_triton_backward(grad, *ctx.saved_tensors), None)


_bi_wkv6_triton.register_autograd(_differentiate, setup_context=_save_for_backward)
