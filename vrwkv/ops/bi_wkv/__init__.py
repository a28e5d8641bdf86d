"""Bi-WKV, the bidirectional token mixer of Vision-RWKV: the maths is in README.md, the definition in naive.py."""

from typing import Any

from torch import Tensor

from vrwkv.ops.argument_checks import check_cu_seqlens, check_floating, check_same_dtype, check_shape
from vrwkv.ops.bi_wkv.cpu import bi_wkv_cpu
from vrwkv.ops.bi_wkv.naive import bi_wkv_naive
from vrwkv.ops.bi_wkv.portable import bi_wkv_torch
from vrwkv.ops.bi_wkv.published import bi_wkv_published
from vrwkv.ops.cpu_runtime.refusal import refuse_cpu
from vrwkv.ops.dispatch import Backend, register_backends, select_backend
from vrwkv.ops.triton_runtime import INTERPRETED, refuse_triton

__all__ = ["bi_wkv", "bi_wkv_published"]


def _bi_wkv_triton(*arguments: Any) -> Tensor:
    from vrwkv.ops.bi_wkv.triton import bi_wkv_triton

    return bi_wkv_triton(*arguments)


register_backends(
    "bi_wkv",
    Backend("triton", _bi_wkv_triton, refuse_triton, automatic=not INTERPRETED),
    Backend("cpu", bi_wkv_cpu, refuse_cpu),
    Backend("torch", bi_wkv_torch),
    Backend("naive", bi_wkv_naive, automatic=False),
)


def bi_wkv(
    decay: Tensor,
    bonus: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    gate: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Per channel, a weighted mean of `v` over all tokens, whose weights fall with the distance between tokens.

    Vision-RWKV (arXiv 2403.02308), Eq. 5, with decay and bonus divided by the number of tokens T as in released code:
    y_t = Σ_i M(t, i) e^{k_i} v_i / Σ_i M(t, i) e^{k_i},
    M(t, i) = e^{-decay/T (|t-i|-1)} for i ≠ t,  M(t, t) = e^{bonus/T}.

    Args:
        decay: (C,) decay over the length of the sequence; negative means that far tokens weigh more.
        bonus: (C,) extra log-weight of a token for itself, on the same scale.
        k: (B, T, C) keys, T in raster order.
        v: (B, T, C) values, dtype of `k`. decay and bonus may be float32 beside half-precision k and v.
        gate: (B, T, C) receptance, dtype of `k`; the result is then sigmoid(gate) · y, in the same pass.
        cu_seqlens: (N+1,) int32 boundaries of N images packed end to end in a batch of one; T is then per image.
        backend: "triton", "cpu", "torch" or "naive"; by default VRWKV_BACKEND, else the best that can run.

    Returns:
        (B, T, C), dtype of `v`, each channel (before the gate) within the range of its values. States are float32,
        or float64 for float64.

    Raises:
        ValueError: a wrong shape, dtype or device (the message names the argument), or a backend that cannot run.
    """
    check_floating(k=k, v=v, decay=decay, bonus=bonus)
    check_shape("k", k, (None, None, None), "(B, T, C)")
    check_shape("v", v, tuple(k.shape), "(B, T, C)")
    check_shape("decay", decay, (k.shape[2],), "(C,)")
    check_shape("bonus", bonus, (k.shape[2],), "(C,)")
    check_same_dtype(k=k, v=v)
    if gate is not None:
        check_floating(k=k, gate=gate)
        check_shape("gate", gate, tuple(k.shape), "(B, T, C)")
        check_same_dtype(k=k, gate=gate)
    check_cu_seqlens(cu_seqlens, k.shape[0], k.shape[1], k.device)
    return select_backend("bi_wkv", backend, k).run(decay, bonus, k, v, gate, cu_seqlens)
