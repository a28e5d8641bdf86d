"""The portable backend of Bi-WKV as one differentiable operator, which compilers and checkpointing see as one node."""

import torch
from torch import Tensor

from vrwkv.ops.bi_wkv.scan import LOG_ZERO, bi_wkv_scan, bi_wkv_scan_backward
from vrwkv.ops.exporting import exporting
from vrwkv.ops.packing import Packing


def bi_wkv_torch(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """Bi-WKV with plain torch ops on any device, O(T) time and memory; arguments as `vrwkv.ops.bi_wkv`."""
    if exporting():
        if cu_seqlens is not None:
            raise ValueError("cu_seqlens cannot be exported: the number of packed sequences is data; export a batch")
        return _forward(decay, bonus, k, v, None)
    return _bi_wkv(decay, bonus, k, v, cu_seqlens)


def _forward(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    compute = torch.promote_types(v.dtype, torch.float32)
    decay, bonus, keys, values = (tensor.to(compute) for tensor in (decay, bonus, k, v))
    if cu_seqlens is None:
        w, u = decay[None, None] / k.shape[1], bonus[None, None] / k.shape[1]
        y = bi_wkv_scan(w, u, keys, values)[0]
        return y.to(v.dtype).contiguous()
    packing = Packing.from_boundaries(cu_seqlens)
    scale = packing.lengths.to(compute).reciprocal()[:, None, None]
    y = bi_wkv_scan(decay * scale, bonus * scale, packing.unpack(keys, LOG_ZERO), packing.unpack(values, 0.0))[0]
    return packing.pack(y).to(v.dtype)


def _backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    compute = torch.promote_types(v.dtype, torch.float32)
    grads, keys, values = (tensor.to(compute) for tensor in (grad, k, v))
    decays, bonuses = decay.to(compute), bonus.to(compute)
    if cu_seqlens is None:
        scale = torch.full((1, 1, 1), 1.0 / k.shape[1], dtype=compute, device=k.device)
        grad_decay, grad_bonus, grad_k, grad_v = bi_wkv_scan_backward(
            grads, decays * scale, bonuses * scale, keys, values
        )
    else:
        packing = Packing.from_boundaries(cu_seqlens)
        scale = packing.lengths.to(compute).reciprocal()[:, None, None]
        grad_decay, grad_bonus, grad_k, grad_v = bi_wkv_scan_backward(
            packing.unpack(grads, 0.0),
            decays * scale,
            bonuses * scale,
            packing.unpack(keys, LOG_ZERO),
            packing.unpack(values, 0.0),
            packing.valid[..., None],
        )
        grad_k, grad_v = packing.pack(grad_k), packing.pack(grad_v)
    return (
        (grad_decay * scale).sum((0, 1)).to(decay.dtype),
        (grad_bonus * scale).sum((0, 1)).to(bonus.dtype),
        grad_k.to(k.dtype).contiguous(),  # as the fake registration promises, whatever the layout of k and v
        grad_v.to(v.dtype).contiguous(),
    )


@torch.library.custom_op("vrwkv::bi_wkv", mutates_args=())
def _bi_wkv(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    return _forward(decay, bonus, k, v, cu_seqlens)


@_bi_wkv.register_fake
def _(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    return v.new_empty(v.shape)


@torch.library.custom_op("vrwkv::bi_wkv_backward", mutates_args=())
def _bi_wkv_backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _backward(grad, decay, bonus, k, v, cu_seqlens)


@_bi_wkv_backward.register_fake
def _(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return decay.new_empty(decay.shape), bonus.new_empty(bonus.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    return (*_bi_wkv_backward(grad, *ctx.saved_tensors), None)


_bi_wkv.register_autograd(_differentiate, setup_context=_save_for_backward)
