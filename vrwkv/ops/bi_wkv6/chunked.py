"""Bi-WKV6 in O(T) with plain torch ops: matrix products inside a chunk, one state per chunk and direction for the rest.

No weight is ever formed as a quotient: each is the exponential of a sum of non-positive logarithms, so it lies in
[0, 1] however strong the decay. Inside a chunk that takes halving: tokens of two neighbouring halves weigh each other
by what lies between them and their common border, one factor for each side; then each half is halved in turn.
Letters in this file: B batch, H heads, n chunks, c tokens of a chunk, N head size.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16
RADIX = 16  # chunks that one level of the scan over chunks walks through one after another
LARGEST_EXPONENT = 80.0  # exp(-exp(80)) is 0 in every dtype; beyond it exp itself overflows
HALVES = tuple(CHUNK >> level for level in range(1, CHUNK.bit_length()))  # 8, 4, 2, 1


class Chunks(NamedTuple):
    """Inputs cut into chunks, each (B, H, n, c, N), and the decays to the borders of the chunk.

    Attributes:
        log_decay: log D_m.
        from_start: decay over the tokens of the chunk before each token.
        to_end: decay over the tokens of the chunk after each token.
        whole: (B, H, n, N) decay over the chunk.
    """

    r: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    from_start: Tensor
    to_end: Tensor
    whole: Tensor


def split_into_chunks(r: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Chunks:
    """Cut (B, T, H, N) inputs into chunks of CHUNK tokens; the padding has r = k = v = 0."""
    log_decay = -torch.exp(w.clamp(max=LARGEST_EXPONENT))
    r, k, v, log_decay = (to_chunks(tensor) for tensor in (r, k, v, log_decay))
    from_start, to_end = torch.exp(_sum_before(log_decay)), torch.exp(_sum_after(log_decay))
    return Chunks(r, k, v, log_decay, from_start, to_end, torch.exp(log_decay.sum(-2)))


def to_chunks(tensor: Tensor) -> Tensor:
    """(B, T, H, N) -> (B, H, n, c, N), padded with zeros to whole chunks."""
    count = (tensor.shape[1] + CHUNK - 1) // CHUNK
    padded = F.pad(tensor, (0, 0, 0, 0, 0, count * CHUNK - tensor.shape[1]))
    return padded.unflatten(1, (-1, CHUNK)).permute(0, 3, 1, 2, 4)


def from_chunks(tensor: Tensor, num_tokens: int) -> Tensor:
    """(B, H, n, c, N) -> (B, T, H, N), contiguous."""
    return tensor.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :num_tokens].contiguous()


def _sum_before(tensor: Tensor) -> Tensor:
    return F.pad(tensor[..., :-1, :].cumsum(-2), (0, 0, 1, 0))


def _sum_after(tensor: Tensor) -> Tensor:
    return F.pad(tensor[..., 1:, :].flip(-2).cumsum(-2).flip(-2), (0, 0, 0, 1))


def split_into_halves(tensor: Tensor, half: int) -> Tensor:
    """(B, H, n, c, N) -> (B, H, n, c / (2 half), 2, half, N): neighbouring halves side by side."""
    return tensor.unflatten(3, (-1, 2, half))


def join_halves(tensor: Tensor) -> Tensor:
    """The inverse of `split_into_halves`."""
    return tensor.flatten(3, 5)


def decay_to_border(log_decay: Tensor, half: int) -> Tensor:
    """Decay between each token and the border of its two halves: (B, H, n, c / (2 half), 2, half, N)."""
    first, second = split_into_halves(log_decay, half).unbind(4)
    return torch.exp(torch.stack([_sum_after(first), _sum_before(second)], dim=4))


def exclusive_decayed_sum(update: Tensor, decay: Tensor) -> Tensor:
    """State before each chunk, S_{j+1} = decay_j S_j + update_j from S_0 = 0.

    Args:
        update: (B, H, n, N, N) what each chunk adds.
        decay: (B, H, n, N) in [0, 1], applied to the rows of the state.

    Returns:
        (B, H, n, N, N).
    """
    count = update.shape[2]
    single_group = count <= RADIX
    groups, steps = (1, count) if single_group else ((count + RADIX - 1) // RADIX, RADIX)
    padding = groups * steps - count
    update = F.pad(update, (0, 0, 0, 0, 0, padding)).unflatten(2, (-1, steps))
    decay = F.pad(decay, (0, 0, 0, padding), value=1.0).unflatten(2, (-1, steps))[..., None]
    if single_group:
        state = torch.zeros_like(update[:, :, :, 0])
    else:
        summary, whole = update[:, :, :, 0], decay[:, :, :, 0]
        for step in range(1, steps):
            summary = decay[:, :, :, step] * summary + update[:, :, :, step]
            whole = whole * decay[:, :, :, step]
        state = exclusive_decayed_sum(summary, whole[..., 0])
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
    chunks = split_into_chunks(r, k, v, w)
    past, future = scan_both_directions(chunks.k * chunks.to_end, chunks.k * chunks.from_start, chunks.v, chunks.whole)
    y = (chunks.r * chunks.from_start) @ past + (chunks.r * chunks.to_end) @ future
    y = y + (chunks.r * chunks.k * u[:, None, None]).sum(-1, keepdim=True) * chunks.v
    for half in HALVES:
        to_border = decay_to_border(chunks.log_decay, half)
        targets = split_into_halves(chunks.r, half) * to_border
        sources = (split_into_halves(chunks.k, half) * to_border).flip(4)
        y = y + join_halves(targets @ sources.transpose(-1, -2) @ split_into_halves(chunks.v, half).flip(4))
    return from_chunks(y, r.shape[1])


def bi_wkv6_chunked_backward(
    grad: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients in r, k, v, w (B, T, H, N) and u (H, N); see README.md for the derivation."""
    num_tokens = r.shape[1]
    chunks = split_into_chunks(r, k, v, w)
    g = to_chunks(grad)
    past, future = scan_both_directions(chunks.k * chunks.to_end, chunks.k * chunks.from_start, chunks.v, chunks.whole)
    # The adjoint states: what targets before, and after, a chunk ask of the sources in it.
    asked_before, asked_after = scan_both_directions(
        chunks.r * chunks.to_end, chunks.r * chunks.from_start, g, chunks.whole
    )

    from_past = chunks.from_start * (g @ past.transpose(-1, -2))
    from_future = chunks.to_end * (g @ future.transpose(-1, -2))
    to_future = chunks.to_end * (chunks.v @ asked_after.transpose(-1, -2))
    to_past = chunks.from_start * (chunks.v @ asked_before.transpose(-1, -2))
    own_match = (g * chunks.v).sum(-1, keepdim=True)
    own_score = (chunks.r * chunks.k * u[:, None, None]).sum(-1, keepdim=True)
    grad_r = from_past + from_future + own_match * chunks.k * u[:, None, None]
    grad_k = to_future + to_past + own_match * chunks.r * u[:, None, None]
    grad_v = (chunks.k * chunks.to_end) @ asked_after + (chunks.k * chunks.from_start) @ asked_before + own_score * g
    grad_u = (chunks.r * chunks.k * own_match).sum((0, 2, 3))

    # The decay of a token scales every pair of which it lies strictly between; count each pair where it crosses:
    # on the way to or from a border of the chunk, through the whole chunk, or on the way to a border of halves.
    crossing = _sum_after(chunks.r * from_past + chunks.k * to_past)
    crossing = crossing + _sum_before(chunks.r * from_future + chunks.k * to_future)
    through = chunks.whole * ((past * asked_after).sum(-1) + (future * asked_before).sum(-1))
    crossing = crossing + through.unsqueeze(-2)
    for half in HALVES:
        to_border = decay_to_border(chunks.log_decay, half)
        targets = split_into_halves(chunks.r, half) * to_border
        sources = split_into_halves(chunks.k, half) * to_border
        values, g_half = split_into_halves(chunks.v, half), split_into_halves(g, half)
        score = targets @ sources.flip(4).transpose(-1, -2)
        match = g_half @ values.flip(4).transpose(-1, -2)  # the gradient of score
        grad_targets = match @ sources.flip(4)
        grad_sources = (match.transpose(-1, -2) @ targets).flip(4)
        grad_r = grad_r + join_halves(grad_targets * to_border)
        grad_k = grad_k + join_halves(grad_sources * to_border)
        grad_v = grad_v + join_halves((score.transpose(-1, -2) @ g_half).flip(4))
        first, second = (targets * grad_targets + sources * grad_sources).unbind(4)
        crossing = crossing + join_halves(torch.stack([_sum_before(first), _sum_after(second)], dim=4))
    grad_w = crossing * chunks.log_decay
    grad_r, grad_k, grad_v, grad_w = (from_chunks(tensor, num_tokens) for tensor in (grad_r, grad_k, grad_v, grad_w))
    return grad_r, grad_k, grad_v, grad_w, grad_u
