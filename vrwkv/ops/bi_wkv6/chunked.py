"""Bi-WKV6 in O(T) with plain torch ops: pairs inside a chunk, one state per chunk and direction for the rest.

No weight is ever formed as a quotient: each is the exponential of a sum of non-positive logarithms, so it lies in [0, 1]
however strong the decay. Letters in this file: B batch, H heads, n chunks, c tokens of a chunk, N head size.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16
RADIX = 16  # chunks that one level of the scan over chunks walks through one after another
EXPORT_LEVELS = 3  # levels unrolled when the number of tokens is symbolic: up to CHUNK · RADIX³ tokens
LARGEST_EXPONENT = 80.0  # exp(-exp(80)) is 0 in every dtype; beyond it exp itself overflows


class Chunks(NamedTuple):
    """Inputs cut into chunks, each (B, H, n, c, N), and the decays inside a chunk.

    Attributes:
        log_decay: log D_m.
        from_start: decay over the tokens of the chunk before each token.
        to_end: decay over the tokens of the chunk after each token.
        whole: (B, H, n, N) decay over the chunk.
        pairs: (B, H, n, c, c, N) weight of source s for target t, with the bonus at t = s.
    """

    r: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    from_start: Tensor
    to_end: Tensor
    whole: Tensor
    pairs: Tensor


def split_into_chunks(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Chunks:
    """Cut (B, T, H, N) inputs into chunks of CHUNK tokens; the padding has r = k = v = 0."""
    log_decay = -torch.exp(w.clamp(max=LARGEST_EXPONENT))
    r, k, v, log_decay = (to_chunks(tensor) for tensor in (r, k, v, log_decay))
    from_start = _sum_before(log_decay)
    to_end = _sum_after(log_decay)
    position = torch.arange(CHUNK, device=r.device)
    target, source = position[:, None], position[None, :]
    previous = F.pad(log_decay[..., :-1, :], (0, 0, 1, 0)).unsqueeze(-2)
    between = torch.where((target - 1 > source)[..., None], previous, 0.0).cumsum(-3)
    pairs = torch.where(
        (target == source)[..., None], u[:, None, None, None], torch.exp(between + between.transpose(-2, -3))
    )
    whole = torch.exp(log_decay.sum(-2))
    return Chunks(r, k, v, log_decay, torch.exp(from_start), torch.exp(to_end), whole, pairs)


def to_chunks(tensor: Tensor) -> Tensor:
    """(B, T, H, N) -> (B, H, n, c, N), padded with zeros to whole chunks."""
    padded = F.pad(tensor, (0, 0, 0, 0, 0, -tensor.shape[1] % CHUNK))
    return padded.unflatten(1, (-1, CHUNK)).permute(0, 3, 1, 2, 4)


def from_chunks(tensor: Tensor, num_tokens: int) -> Tensor:
    """(B, H, n, c, N) -> (B, T, H, N), contiguous."""
    return tensor.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :num_tokens].contiguous()


def _sum_before(tensor: Tensor) -> Tensor:
    return F.pad(tensor[..., :-1, :].cumsum(-2), (0, 0, 1, 0))


def _sum_after(tensor: Tensor) -> Tensor:
    return F.pad(tensor[..., 1:, :].flip(-2).cumsum(-2).flip(-2), (0, 0, 0, 1))


def exclusive_decayed_sum(update: Tensor, decay: Tensor, levels: int | None = None) -> Tensor:
    """State before each chunk, S_{j+1} = decay_j S_j + update_j from S_0 = 0.

    Args:
        update: (B, H, n, N, N) what each chunk adds.
        decay: (B, H, n, N) in [0, 1], applied to the rows of the state.
        levels: how deep to recurse; by default as deep as n asks for.

    Returns:
        (B, H, n, N, N).
    """
    count = update.shape[2]
    if levels is None and not isinstance(count, int):
        torch._check(count <= RADIX**EXPORT_LEVELS)
        levels = EXPORT_LEVELS
    single_group = levels == 1 if levels is not None else count <= RADIX
    steps = count if single_group and levels is None else RADIX
    padding = steps - count if single_group else -count % RADIX
    update = F.pad(update, (0, 0, 0, 0, 0, padding)).unflatten(2, (-1, steps))
    decay = F.pad(decay, (0, 0, 0, padding), value=1.0).unflatten(2, (-1, steps))[..., None]
    if single_group:
        state = torch.zeros_like(update[:, :, :, 0])
    else:
        summary, whole = update[:, :, :, 0], decay[:, :, :, 0]
        for step in range(1, steps):
            summary = decay[:, :, :, step] * summary + update[:, :, :, step]
            whole = whole * decay[:, :, :, step]
        state = exclusive_decayed_sum(summary, whole[..., 0], None if levels is None else levels - 1)
    states = [state]
    for step in range(steps - 1):
        state = decay[:, :, :, step] * state + update[:, :, :, step]
        states.append(state)
    return torch.stack(states, dim=3).flatten(2, 3)[:, :, :count]


def scan_both_directions(
    rows_past: Tensor, rows_future: Tensor, columns: Tensor, whole: Tensor
) -> tuple[Tensor, Tensor]:
    """States that reach each chunk from the chunks before it and from those after it.

    Args:
        rows_past: (B, H, n, c, N) row vectors, decayed to the end of their chunk, whose outer products with `columns`
            make what the chunk hands to later ones.
        rows_future: likewise, decayed to the start of their chunk, for earlier ones.
        columns: (B, H, n, c, N).
        whole: (B, H, n, N) decay over each chunk.

    Returns:
        Two (B, H, n, N, N) tensors.
    """
    batch = columns.shape[0]
    update_past = rows_past.transpose(-1, -2) @ columns
    update_future = rows_future.transpose(-1, -2) @ columns
    states = exclusive_decayed_sum(torch.cat([update_past, update_future.flip(2)]), torch.cat([whole, whole.flip(2)]))
    return states[:batch], states[batch:].flip(2)


def bi_wkv6_chunked(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Bi-WKV6 of whole sequences; r, k, v, w (B, T, H, N), u (H, N), all float32 or all float64 -> (B, T, H, N)."""
    chunks = split_into_chunks(r, k, v, w, u)
    past, future = scan_both_directions(chunks.k * chunks.to_end, chunks.k * chunks.from_start, chunks.v, chunks.whole)
    score = (chunks.r.unsqueeze(-2) * chunks.k.unsqueeze(-3) * chunks.pairs).sum(-1)
    y = score @ chunks.v + (chunks.r * chunks.from_start) @ past + (chunks.r * chunks.to_end) @ future
    return from_chunks(y, r.shape[1])


def bi_wkv6_chunked_backward(
    grad: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients in r, k, v, w (B, T, H, N) and u (H, N); see README.md for the derivation."""
    num_tokens = r.shape[1]
    chunks = split_into_chunks(r, k, v, w, u)
    g = to_chunks(grad)
    past, future = scan_both_directions(chunks.k * chunks.to_end, chunks.k * chunks.from_start, chunks.v, chunks.whole)
    # The adjoint states: what targets before, and after, a chunk ask of the sources in it.
    asked_before, asked_after = scan_both_directions(
        chunks.r * chunks.to_end, chunks.r * chunks.from_start, g, chunks.whole
    )

    score = (chunks.r.unsqueeze(-2) * chunks.k.unsqueeze(-3) * chunks.pairs).sum(-1)
    match = g @ chunks.v.transpose(-1, -2)  # (…, target, source): the gradient of score
    weighted_match = match.unsqueeze(-1) * chunks.pairs

    from_past = chunks.from_start * (g @ past.transpose(-1, -2))
    from_future = chunks.to_end * (g @ future.transpose(-1, -2))
    to_future = chunks.to_end * (chunks.v @ asked_after.transpose(-1, -2))
    to_past = chunks.from_start * (chunks.v @ asked_before.transpose(-1, -2))
    grad_r = from_past + from_future + (weighted_match * chunks.k.unsqueeze(-3)).sum(-2)
    grad_k = to_future + to_past + (weighted_match * chunks.r.unsqueeze(-2)).sum(-3)
    grad_v = (
        score.transpose(-1, -2) @ g
        + (chunks.k * chunks.to_end) @ asked_after
        + (chunks.k * chunks.from_start) @ asked_before
    )
    own_match = match.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    grad_u = (chunks.r * chunks.k * own_match).sum((0, 2, 3))

    # The decay of a token scales every pair of which it lies strictly between; count each pair where it crosses.
    product = weighted_match * chunks.r.unsqueeze(-2) * chunks.k.unsqueeze(-3)
    product = product + product.transpose(-2, -3)
    position = torch.arange(CHUNK, device=r.device)
    later_target = (position[:, None] > position[None, :])[..., None]  # (target, token between)
    sources_before = F.pad(product.cumsum(-2)[..., :-1, :], (0, 0, 1, 0))
    crossing = torch.where(later_target, sources_before, 0.0).sum(-3)
    crossing = crossing + _sum_after(chunks.r * from_past + chunks.k * to_past)
    crossing = crossing + _sum_before(chunks.r * from_future + chunks.k * to_future)
    through = chunks.whole * ((past * asked_after).sum(-1) + (future * asked_before).sum(-1))
    crossing = crossing + through.unsqueeze(-2)
    grad_w = crossing * chunks.log_decay
    return (*(from_chunks(tensor, num_tokens) for tensor in (grad_r, grad_k, grad_v, grad_w)), grad_u)
