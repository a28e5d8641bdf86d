"""Bi-WKV6, the bidirectional RWKV-6 mixer of VRWKV6 and RWKV-CLIP: maths in README.md, definition in naive.py."""

from torch import Tensor

from vrwkv.ops.argument_checks import check_cu_seqlens, check_floating, check_same_dtype, check_shape
from vrwkv.ops.bi_wkv6.cpu import bi_wkv6_cpu
from vrwkv.ops.bi_wkv6.naive import bi_wkv6_naive
from vrwkv.ops.bi_wkv6.portable import bi_wkv6_torch
from vrwkv.ops.cpu_runtime.refusal import refuse_cpu
from vrwkv.ops.dispatch import Backend, register_backends, select_backend
from vrwkv.ops.triton_runtime import INTERPRETED, refuse_triton

__all__ = ["bi_wkv6"]

LARGEST_TRITON_HEAD = 128


def _bi_wkv6_triton(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    from vrwkv.ops.bi_wkv6.triton import bi_wkv6_triton

    return bi_wkv6_triton(r, k, v, w, u, cu_seqlens)


def _refuse_triton(*tensors: Tensor) -> str | None:
    """As `refuse_triton`; given r, also where its head size is too large."""
    if reason := refuse_triton(*tensors):
        return reason
    if tensors and tensors[0].shape[-1] > LARGEST_TRITON_HEAD:
        return f"a state of its kernels has at most {LARGEST_TRITON_HEAD} channels, not {tensors[0].shape[-1]}"
    return None


register_backends(
    "bi_wkv6",
    Backend("triton", _bi_wkv6_triton, _refuse_triton, automatic=not INTERPRETED),
    Backend("cpu", bi_wkv6_cpu, refuse_cpu),
    Backend("torch", bi_wkv6_torch),
    Backend("naive", bi_wkv6_naive, automatic=False),
)


def bi_wkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Per head, linear attention over all tokens whose keys decay with what lies between source and target.

    VRWKV6 and RWKV-CLIP (released code): with D_m = exp(-exp(w_m)) per channel and token,
    y_t = Σ_s Σ_j r_t[j] W_ts[j] k_s[j] v_s,  W_tt = u,  W_ts = Π_{m strictly between s and t} D_m.
    There is no 1/√N scale and no normaliser; w is not divided by T.

    Args:
        r: (B, T, H, N) receptance.
        k: (B, T, H, N) keys.
        v: (B, T, H, N) values; r, k and v share a dtype.
        w: (B, T, H, N) raw decay; may be float32 beside half-precision r, k, v.
        u: (H, N) bonus of a token for itself; may be float32, too.
        cu_seqlens: (M+1,) int32 boundaries of M images packed end to end in a batch of one.
        backend: "triton", "cpu", "torch" or "naive"; by default VRWKV_BACKEND, else the best that can run.

    Returns:
        (B, T, H, N), dtype of `v`. States are float32, or float64 for float64.

    Raises:
        ValueError: a wrong shape, dtype or device (the message names the argument), or a backend that cannot run.
    """
    check_floating(r=r, k=k, v=v, w=w, u=u)
    check_shape("r", r, (None, None, None, None), "(B, T, H, N)")
    for name, tensor in (("k", k), ("v", v), ("w", w)):
        check_shape(name, tensor, tuple(r.shape), "(B, T, H, N)")
    check_shape("u", u, tuple(r.shape[2:]), "(H, N)")
    check_same_dtype(r=r, k=k, v=v)
    check_cu_seqlens(cu_seqlens, r.shape[0], r.shape[1], r.device)
    return select_backend("bi_wkv6", backend, r).run(r, k, v, w, u, cu_seqlens)
