"""Bi-WKV6 as exported files hold it: few and large standard operators, for any number of tokens.

Tokens are cut into chunks of CHUNK, and chunks into G groups of GROUP. Every weight is the exponential of a sum of
non-positive logarithms, and all such sums are products with matrices of zeros and ones: no quotient is formed, and
nothing is unrolled over tokens. Sizes other than G are numbers, since exporters reason slowly about symbols.
Letters in this file: B batch, H heads, G groups, g chunks of a group, c tokens of a chunk, N head size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16  # tokens
GROUP = 16  # chunks
HALVES = tuple(CHUNK >> level for level in range(1, CHUNK.bit_length()))  # 8, 4, 2, 1
LARGEST_EXPONENT = 7.0  # exp(-exp(7)) is 0 even in float64, and no sum of such logarithms overflows


def bi_wkv6_exported(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Bi-WKV6 (see `vrwkv.ops.bi_wkv6`); r, k, v, w (B, T, H, N), u (H, N), all float32 or all float64 -> (B, T, H, N).

    B and T may be symbols. O(T) time and memory, beside (T / 256)² weights a channel between groups.
    """
    batch, num_tokens, heads, head_size = r.shape
    groups, group = _grouping(num_tokens)
    log_decay = -torch.exp(w.clamp(max=LARGEST_EXPONENT))
    padded = F.pad(torch.stack([r, k, v, log_decay]), (0, 0, 0, 0, 0, groups * group * CHUNK - num_tokens))
    chunks = padded.reshape(4, batch, groups, group, CHUNK, heads, head_size).permute(0, 1, 5, 2, 3, 4, 6)
    r, k, v, log_decay = chunks.unbind(0)  # (B, H, G, g, c, N)

    decay = torch.exp(torch.tensor(SPANS, dtype=r.dtype, device=r.device) @ log_decay)
    from_start, to_end, *to_border = decay.split(CHUNK, dim=-2)
    past, future = _states(torch.stack([k * to_end, k * from_start]).mT @ v, log_decay.sum(-2))
    score = torch.diag_embed((r * k * u[:, None, None, None]).sum(-1))
    for crosses, factor in zip(CROSSINGS, to_border, strict=True):
        pairs = torch.tensor(crosses, dtype=r.dtype, device=r.device)
        score = score + pairs * ((r * factor) @ (k * factor).mT)
    y = (r * from_start) @ past + (r * to_end) @ future + score @ v
    return y.permute(0, 2, 3, 4, 1, 5).reshape(batch, groups * group * CHUNK, heads, head_size)[:, :num_tokens]


def _grouping(num_tokens: int) -> tuple[int, int]:
    """Numbers of groups and of chunks in each."""
    chunks = (num_tokens + CHUNK - 1) // CHUNK
    if isinstance(num_tokens, int):
        group = min(chunks, GROUP)
        return (chunks + group - 1) // group, group
    # A spare group: a symbol that could be 1 would have to be told apart from those that broadcast.
    return (num_tokens + CHUNK * GROUP - 1) // (CHUNK * GROUP) + 1, GROUP


def _spans() -> list[list[float]]:
    """Which tokens of a chunk (columns) each sum of logarithms counts: c rows for every kind of sum.

    From the start of the chunk to each token, from each token to the end; then, for every size of halves, between each
    token and the border of its two halves. The token itself is never counted.
    """
    tokens = range(CHUNK)
    rows = [[float(other < token) for other in tokens] for token in tokens]
    rows += [[float(other > token) for other in tokens] for token in tokens]
    for half in HALVES:
        for token in tokens:
            border = token // (2 * half) * 2 * half + half
            between = range(token + 1, border) if token < border else range(border, token)
            rows.append([float(other in between) for other in tokens])
    return rows


def _crossings() -> list[list[list[float]]]:
    """For every size of halves, which pairs of tokens lie in neighbouring halves: (c, c) each, every pair once."""
    tokens = range(CHUNK)
    return [[[float(one // half ^ 1 == other // half) for other in tokens] for one in tokens] for half in HALVES]


SPANS, CROSSINGS = _spans(), _crossings()


def _states(updates: Tensor, log_decay: Tensor) -> Tensor:
    """States that reach each chunk from the chunks before and from those after it.

    Args:
        updates: (2, B, H, G, g, N, N) what each chunk adds to what later, and to what earlier chunks see.
        log_decay: (B, H, G, g, N) over each chunk; it applies to the rows of the states.

    Returns:
        (2, B, H, G, g, N, N).
    """
    updates = updates.transpose(-3, -2)  # (2, B, H, G, N, g, N): chunks are what the products sum over
    falls = log_decay.mT  # (B, H, G, N, g)
    index = torch.arange(falls.shape[-1], device=falls.device)
    earlier = (index[:, None] < index).to(falls.dtype)
    from_start, to_end = torch.exp(falls @ earlier), torch.exp(falls @ earlier.mT)
    sums = torch.stack([to_end, from_start]).unsqueeze(-2) @ updates  # (2, B, H, G, N, 1, N) of each group

    sums = sums.squeeze(-2).transpose(-3, -2)  # (2, B, H, N, G, N)
    carried = _pair_weights(falls.sum(-1).mT) @ sums
    carried = carried.transpose(-3, -2).unsqueeze(-2)  # (2, B, H, G, N, 1, N)
    states = _pair_weights(falls) @ updates + torch.stack([from_start, to_end]).unsqueeze(-1) * carried
    return states.transpose(-3, -2)


def _pair_weights(falls: Tensor) -> Tensor:
    """(…, m) logarithms -> (2, …, m, m) decays strictly between target (row) and source: past sources, then future."""
    count = falls.shape[-1]
    index = torch.arange(count, device=falls.device)
    target, source = index[:, None], index
    between = (index[:, None, None] - target) * (source - index[:, None, None]) > 0
    weights = torch.exp(falls @ between.flatten(1).to(falls.dtype)).unflatten(-1, (count, count))
    seen = torch.stack([source < target, source > target])
    return weights * seen.to(falls.dtype).reshape(2, *(1,) * (falls.ndim - 1), count, count)
