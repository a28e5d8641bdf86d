"""The portable backend of Bi-WKV6: plain torch ops on any device, from chunked.py."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from vrwkv.ops.bi_wkv6.chunked import bi_wkv6_chunked, bi_wkv6_chunked_backward
from vrwkv.ops.bi_wkv6.exported import bi_wkv6_exported
from vrwkv.ops.bi_wkv6.operator import Gradients, differentiable_operator
from vrwkv.ops.exporting import exporting, transformed
from vrwkv.ops.packing import Packing


def bi_wkv6_torch(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """Bi-WKV6 with plain torch ops on any device, O(T) time and memory; arguments as `vrwkv.ops.bi_wkv6`."""
    if exporting():
        if cu_seqlens is not None:
            raise ValueError("cu_seqlens cannot be exported: the number of packed sequences is data; export a batch")
        compute = torch.promote_types(v.dtype, torch.float32)
        with _without_autocast(v.device.type):
            return bi_wkv6_exported(*(tensor.to(compute) for tensor in (r, k, v, w, u))).to(v.dtype)
    if transformed():
        return portable_forward(r, k, v, w, u, cu_seqlens)
    return _bi_wkv6(r, k, v, w, u, cu_seqlens)


def portable_forward(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """The op itself, for whatever wraps it in an operator."""
    compute = torch.promote_types(v.dtype, torch.float32)
    packing = None if cu_seqlens is None else Packing.from_boundaries(cu_seqlens)
    receptance, keys, values, decays = (_unpack(tensor.to(compute), packing) for tensor in (r, k, v, w))
    with _without_autocast(v.device.type):
        y = bi_wkv6_chunked(receptance, keys, values, decays, u.to(compute))
    return _pack(y, packing).to(v.dtype)


def portable_backward(
    grad: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None
) -> Gradients:
    """Gradients in r, k, v, w and u."""
    compute = torch.promote_types(v.dtype, torch.float32)
    packing = None if cu_seqlens is None else Packing.from_boundaries(cu_seqlens)
    g, receptance, keys, values, decays = (_unpack(tensor.to(compute), packing) for tensor in (grad, r, k, v, w))
    with _without_autocast(v.device.type):
        *grads, grad_u = bi_wkv6_chunked_backward(g, receptance, keys, values, decays, u.to(compute))
    grad_r, grad_k, grad_v, grad_w = (
        _pack(tensor, packing).to(like.dtype) for tensor, like in zip(grads, (r, k, v, w), strict=True)
    )
    return grad_r, grad_k, grad_v, grad_w, grad_u.to(u.dtype)


def _without_autocast(device: str) -> AbstractContextManager[None]:
    """Products of matrices in full precision. Nothing at all where autocast is off: an exported graph would show it."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _unpack(tensor: Tensor, packing: Packing | None) -> Tensor:
    return tensor if packing is None else packing.unpack(tensor, 0.0)


def _pack(tensor: Tensor, packing: Packing | None) -> Tensor:
    return tensor if packing is None else packing.pack(tensor)


_bi_wkv6 = differentiable_operator("vrwkv::bi_wkv6", portable_forward, portable_backward)
