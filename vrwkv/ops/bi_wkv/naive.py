"""Bi-WKV by its definition: every token weighs every other. O(T²) memory; the oracle that faster backends answer to."""

import torch
from torch import Tensor


def bi_wkv_naive(
    decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None = None, cu_seqlens: Tensor | None = None
) -> Tensor:
    """Weighted mean of `v` over all tokens, with weights that fall (or grow) with distance; computed in float64.

    Vision-RWKV (arXiv 2403.02308), Eq. 5:
    y_t = Σ_i M(t, i) e^{k_i} v_i / Σ_i M(t, i) e^{k_i},
    M(t, i) = e^{-decay/T (|t-i|-1)} for i ≠ t,  M(t, t) = e^{bonus/T}.

    Args:
        decay: (C,) decay over the length of the sequence; may be negative.
        bonus: (C,) extra weight of a token for itself, on the same scale.
        k: (B, T, C) keys.
        v: (B, T, C) values.
        gate: (B, T, C); the result is then sigmoid(gate) · y.
        cu_seqlens: (N+1,) boundaries of N sequences packed in a batch of one.

    Returns:
        (B, T, C), dtype of `v`. Each channel stays within the range of its values.
    """
    # float64 whatever the inputs: T weights sum to 1 to the last bit of v's dtype, and autocast leaves it alone.
    decay, bonus, keys, values = (tensor.double() for tensor in (decay, bonus, k, v))
    if gate is not None:
        return (torch.sigmoid(gate.double()) * bi_wkv_naive(decay, bonus, keys, values, None, cu_seqlens)).to(v.dtype)
    if cu_seqlens is not None:
        lengths = cu_seqlens.diff().tolist()
        pieces = zip(keys.split(lengths, dim=1), values.split(lengths, dim=1), strict=True)
        return torch.cat([bi_wkv_naive(decay, bonus, *piece) for piece in pieces], dim=1).to(v.dtype)
    num_tokens = k.shape[1]
    position = torch.arange(num_tokens, device=k.device)
    distance = (position[:, None] - position[None, :]).abs()[..., None]
    log_weight = torch.where(distance == 0, bonus, -decay * (distance - 1)) / num_tokens  # (T, T, C): target, source
    return torch.einsum("btsc,bsc->btc", torch.softmax(log_weight + keys[:, None], dim=2), values).to(v.dtype)
