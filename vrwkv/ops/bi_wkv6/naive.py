"""Bi-WKV6 by its definition: every pair of tokens, every channel. O(T²) memory; what faster backends answer to."""

import torch
from torch import Tensor


def bi_wkv6_naive(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """Bidirectional RWKV-6: linear attention whose keys decay with what lies between two tokens; computed in float64.

    y_t = Σ_s Σ_j r_t[j] W_ts[j] k_s[j] v_s,  W_tt = u,
    W_ts = Π_{m strictly between s and t} D_m,  D_m = exp(-exp(w_m)).

    Args:
        r, k, v, w: (B, T, H, N).
        u: (H, N).
        cu_seqlens: (M+1,) boundaries of M sequences packed in a batch of one.

    Returns:
        (B, T, H, N), dtype of `v`.
    """
    # float64 whatever the inputs: it is the oracle, and autocast leaves its products alone.
    receptance, keys, values, raw_decay, bonus = (tensor.double() for tensor in (r, k, v, w, u))
    if cu_seqlens is not None:
        lengths = cu_seqlens.diff().tolist()
        tokens = [tensor.split(lengths, dim=1) for tensor in (receptance, keys, values, raw_decay)]
        images = [bi_wkv6_naive(r, k, v, w, bonus) for r, k, v, w in zip(*tokens, strict=True)]
        return torch.cat(images, dim=1).to(v.dtype)
    log_decay = -torch.exp(raw_decay.clamp(max=80))
    num_tokens = r.shape[1]
    target = torch.arange(num_tokens, device=r.device)[:, None]
    source = torch.arange(num_tokens, device=r.device)[None, :]
    # Sum over the tokens strictly between: a running sum along the targets that starts anew for every source.
    previous = torch.roll(log_decay, 1, dims=1)[:, :, None]
    between = torch.where((target - 1 > source)[..., None, None], previous, 0).cumsum(1)  # (B, T, T, H, N)
    weight = torch.exp(between + between.transpose(1, 2))
    weight = torch.where((target == source)[..., None, None], bonus, weight)
    score = torch.einsum("bthn,bshn,btshn->btsh", receptance, keys, weight)
    return torch.einsum("btsh,bshn->bthn", score, values).to(v.dtype)
