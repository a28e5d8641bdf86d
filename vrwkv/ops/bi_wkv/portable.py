"""The portable backend of Bi-WKV: plain torch ops on any device, from scan.py."""

import torch
from torch import Tensor

from vrwkv.ops.bi_wkv.exported import bi_wkv_exported
from vrwkv.ops.bi_wkv.operator import differentiable_operator
from vrwkv.ops.bi_wkv.scan import LOG_ZERO, bi_wkv_scan, bi_wkv_scan_backward
from vrwkv.ops.exporting import exporting, transformed
from vrwkv.ops.packing import Packing


def bi_wkv_torch(
    decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None = None, cu_seqlens: Tensor | None = None
) -> Tensor:
    """Bi-WKV with plain torch ops on any device, O(T) time and memory; arguments as `vrwkv.ops.bi_wkv`."""
    if exporting():
        if cu_seqlens is not None:
            raise ValueError("cu_seqlens cannot be exported: the number of packed sequences is data; export a batch")
        compute = torch.promote_types(v.dtype, torch.float32)
        mean = bi_wkv_exported(*(tensor.to(compute) for tensor in (decay, bonus, k, v)))
        return _gated(mean, gate, v.dtype)
    if transformed():
        return portable_forward(decay, bonus, k, v, gate, cu_seqlens)
    return _bi_wkv(decay, bonus, k, v, gate, cu_seqlens)


def portable_forward(
    decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None
) -> Tensor:
    """The op itself, for whatever wraps it in an operator."""
    return _gated(_mean(decay, bonus, k, v, cu_seqlens), gate, v.dtype)


def _mean(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Bi-WKV without its gate, float32 or float64."""
    compute = torch.promote_types(v.dtype, torch.float32)
    decay, bonus, keys, values = (tensor.to(compute) for tensor in (decay, bonus, k, v))
    if cu_seqlens is None:
        return bi_wkv_scan(decay[None, None] / k.shape[1], bonus[None, None] / k.shape[1], keys, values)[0]
    packing = Packing.from_boundaries(cu_seqlens)
    scale = packing.lengths.to(compute).reciprocal()[:, None, None]
    y = bi_wkv_scan(decay * scale, bonus * scale, packing.unpack(keys, LOG_ZERO), packing.unpack(values, 0.0))[0]
    return packing.pack(y)


def _gated(mean: Tensor, gate: Tensor | None, dtype: torch.dtype) -> Tensor:
    y = mean if gate is None else torch.sigmoid(gate.to(mean.dtype)) * mean
    return y.to(dtype).contiguous()  # as the fake registration promises, whatever the layout of k and v


def portable_backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None
) -> list[Tensor]:
    """Gradients in decay, bonus, k, v and, if there is one, gate."""
    compute = torch.promote_types(v.dtype, torch.float32)
    gradients = grad.to(compute)
    gate_gradient = []
    if gate is not None:
        opening = torch.sigmoid(gate.to(compute))
        closing = gradients * _mean(decay, bonus, k, v, cu_seqlens) * opening * (1 - opening)
        gate_gradient = [closing.to(gate.dtype).contiguous()]
        gradients = gradients * opening
    keys, values, decays, bonuses = (tensor.to(compute) for tensor in (k, v, decay, bonus))
    if cu_seqlens is None:
        scale = torch.full((1, 1, 1), 1.0 / k.shape[1], dtype=compute, device=k.device)
        grad_decay, grad_bonus, grad_k, grad_v = bi_wkv_scan_backward(
            gradients, decays * scale, bonuses * scale, keys, values
        )
    else:
        packing = Packing.from_boundaries(cu_seqlens)
        scale = packing.lengths.to(compute).reciprocal()[:, None, None]
        grad_decay, grad_bonus, grad_k, grad_v = bi_wkv_scan_backward(
            packing.unpack(gradients, 0.0),
            decays * scale,
            bonuses * scale,
            packing.unpack(keys, LOG_ZERO),
            packing.unpack(values, 0.0),
            packing.valid[..., None],
        )
        grad_k, grad_v = packing.pack(grad_k), packing.pack(grad_v)
    return [
        (grad_decay * scale).sum((0, 1)).to(decay.dtype),
        (grad_bonus * scale).sum((0, 1)).to(bonus.dtype),
        grad_k.to(k.dtype).contiguous(),
        grad_v.to(v.dtype).contiguous(),
        *gate_gradient,
    ]


_bi_wkv = differentiable_operator("vrwkv::bi_wkv", portable_forward, portable_backward)
