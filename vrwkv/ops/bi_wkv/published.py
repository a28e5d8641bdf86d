"""Bi-WKV as the released CUDA kernels compute it, not by the paper's formula: for parity with published weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vrwkv.ops.argument_checks import check_floating, check_same_dtype, check_shape
from vrwkv.ops.bi_wkv.scan import LOG_ZERO, exclusive_scan, scan_both_directions


def bi_wkv_published(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, *, chunks: int = 32) -> Tensor:
    """Forward of the released kernels: like `bi_wkv`, but with the weights that their chunking really gives.

    The kernels cut T tokens into `chunks` pieces of L = ceil(T / chunks). With w = decay/T, u = bonus/T and t₀ the
    first token of t's piece, the weight of token i for token t is e^{k_i} times

    - e^{-w(t-i)} before the piece and e^{-w(i-t)} after t (one step further than Eq. 5 of the paper),
    - e^{-w(t-i-1)} + [i > t₀] (1 - e^w) e^{w(t-i)} inside the piece before t,
    - e^u + [t > t₀] (1 - e^w) at t itself.

    The terms with (1 - e^w) are negative for positive decays, so the result can leave the range of `v` and breaks down
    for decays far beyond 30. Gradients are the true derivative of this forward (the released backward is not).

    Args:
        decay, bonus: (C,) the model's parameters, divided by T inside.
        k, v: (B, T, C).
        chunks: 32 for the newer kernels and most of the older ones, 16 for the older ones behind VRWKV-L and
            segmentation.

    Returns:
        (B, T, C), dtype of `v`; computed in float32, or float64 if `v` is.

    Raises:
        ValueError: a wrong shape, dtype or device, or `chunks` below 1.
    """
    check_floating(k=k, v=v, decay=decay, bonus=bonus)
    check_shape("k", k, (None, None, None), "(B, T, C)")
    check_shape("v", v, tuple(k.shape), "(B, T, C)")
    check_shape("decay", decay, (k.shape[2],), "(C,)")
    check_shape("bonus", bonus, (k.shape[2],), "(C,)")
    check_same_dtype(k=k, v=v)
    if not isinstance(chunks, int) or chunks < 1:
        raise ValueError(f"chunks must be a whole number of at least 1, not {chunks}")
    compute = torch.promote_types(v.dtype, torch.float32)
    batch, num_tokens, _ = k.shape
    w, u = decay.to(compute)[None, None] / num_tokens, bonus.to(compute)[None, None] / num_tokens
    length = -(-num_tokens // chunks)
    count = -(-num_tokens // length)
    padding = count * length - num_tokens
    keys = F.pad(k.to(compute), (0, 0, 0, padding), value=LOG_ZERO)
    values = F.pad(v.to(compute), (0, 0, 0, padding))

    def by_chunk(tensor: Tensor) -> Tensor:
        return tensor.reshape(batch * count, length, -1)

    def by_image(tensor: Tensor) -> Tensor:
        return tensor.reshape(batch, count * length, -1)

    past, future = scan_both_directions(keys, values[None], w)
    position = torch.arange(length, device=k.device, dtype=compute)[None, :, None]
    at_chunk_start = [state.reshape(batch, count, length, -1)[:, :, :1] for state in (past.mean[0], past.log_mass)]
    earlier_mean, earlier_log_mass = (by_chunk(state.expand(-1, -1, length, -1)) for state in at_chunk_start)
    inside = exclusive_scan(by_chunk(keys), by_chunk(values)[None], w)
    # The leak: what the kernel subtracts from its suffix sums, weights that grow with distance inside the piece.
    first = position == 0
    leak_keys = torch.where(first, LOG_ZERO, by_chunk(keys))
    leak = exclusive_scan(leak_keys, by_chunk(values)[None], -w)
    leak_factor = 1 - torch.exp(w)
    terms: list[tuple[float | Tensor, Tensor, Tensor]] = [
        (1.0, earlier_log_mass - w * (position + 1), earlier_mean),
        (1.0, inside.log_mass, inside.mean[0]),
        (leak_factor, leak.log_mass + w, leak.mean[0]),
        (leak_factor, leak_keys, by_chunk(values)),
        (1.0, by_chunk(keys) + u, by_chunk(values)),
        (1.0, by_chunk(future.log_mass) - w, by_chunk(future.mean[0])),
    ]
    scale = torch.stack([log_weight for _, log_weight, _ in terms]).amax(0).detach()
    weights = [sign * torch.exp(log_weight - scale) for sign, log_weight, _ in terms]
    numerator = torch.stack([weight * mean for weight, (_, _, mean) in zip(weights, terms, strict=True)]).sum(0)
    y = by_image(numerator / torch.stack(weights).sum(0))
    return y[:, :num_tokens].to(v.dtype)
