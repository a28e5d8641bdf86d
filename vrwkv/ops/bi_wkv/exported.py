"""Bi-WKV as exported files hold it: few and large standard operators, most of them matrix products.

All weights between tokens are e^{-decay · distance}, constants of the parameters and of T. So tokens are cut into about
√T chunks of about √T; inside a chunk one small matrix per channel applies all weights at once, and another one carries
the sums of the chunks to each other. README.md has the formulas and the range in which they are exact.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vrwkv.ops.exporting import fixed_chunk

# Natural logarithms. Float32 ends near e^{-87} and e^{88}; sums stay inside for any key and any parameter.
KEY_FLOOR = -70.0  # the sum of a channel's e^{k} is 1, and each is at least this: every token sees itself
LARGEST_FALL = 60.0  # over a chunk, for positive decays
LARGEST_RISE = 40.0  # over a chunk, for negative ones
LARGEST_GAIN = 70.0  # of far chunks over a chunk's own tokens, for negative decays
LIFT = 35.0  # of all weights where the decay is not negative: there is no gain, and small sums keep away from zero
OWN_RANGE = (-35.0, 30.0)  # of bonus / T


class ChunkWeights(NamedTuple):
    """What every chunk has in common; c tokens in a chunk, n chunks. Sources are rows, targets columns.

    inside (C, c, c): from token to token of one chunk. to_sums (C, c, 2): from a token to its chunk's sums, as the next
    and as the previous chunk see them. between (C, 2n, 2n): from those sums, two of each chunk, to what each chunk
    inherits from the past and from the future. from_sums (C, 2, c): from those two to the chunk's tokens.
    """

    inside: Tensor
    to_sums: Tensor
    between: Tensor
    from_sums: Tensor


def bi_wkv_exported(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Bi-WKV (see `vrwkv.ops.bi_wkv`) of decay, bonus (C,) and k, v (B, T, C), all float32 or all float64.

    B and T may be symbols. O(T √T) time and O(T) memory; exact for |decay| up to 30 whatever the keys.
    """
    batch, num_tokens, channels = k.shape
    if isinstance(num_tokens, int):
        chunk = chunk_size(num_tokens)
        count = (num_tokens + chunk - 1) // chunk
    else:
        # sqrt has no name in the ONNX exporter, ceil none in saved programs
        chunk = fixed_chunk() or math.trunc(num_tokens**0.5) + 1
        # Always some padding: none would have to be told apart by a guard. Nor may there be a single chunk, for which
        # the exporter notes other shapes than for several; the root gives two from two tokens on.
        count = num_tokens // chunk + (1 if fixed_chunk() is None else 2)
    padding = count * chunk - num_tokens
    weights = chunk_weights(decay / num_tokens, bonus / num_tokens, chunk, count)

    key, value = k.permute(2, 0, 1), v.permute(2, 0, 1)  # channels first: they are the batch of the products
    weight = torch.softmax(key, dim=2).clamp(min=math.exp(KEY_FLOOR))  # one node; the common factor cancels
    sums = []
    for summand in (weight * value, weight):
        # A number that is 0 leaves no node behind; a symbol is never compared.
        padded = summand if isinstance(padding, int) and padding == 0 else F.pad(summand, (0, padding))
        tokens = padded.reshape(channels, batch * count, chunk)
        chunk_sums = (tokens @ weights.to_sums).reshape(channels, batch, 2 * count)
        inherited = (chunk_sums @ weights.between).reshape(channels, batch * count, 2)
        sums.append(tokens @ weights.inside + inherited @ weights.from_sums)
    mean = (sums[0] / sums[1]).reshape(channels, batch, count * chunk)
    return mean[:, :, :num_tokens].permute(1, 2, 0)


def chunk_size(num_tokens: int) -> int:
    """Tokens in a chunk: near √T, and a divisor of T if there is one at most twice as large, which saves padding."""
    smallest = math.isqrt(num_tokens - 1) + 1
    return next((size for size in range(smallest, 2 * smallest + 1) if num_tokens % size == 0), smallest)


def chunk_weights(decay: Tensor, bonus: Tensor, chunk: int, count: int) -> ChunkWeights:
    """The matrices for decay and bonus (C,), both per step. All weights of a channel share a factor, which cancels.

    Where a chunk sees others more than e^{LARGEST_GAIN} larger than its own tokens (decays below -70), those
    are reduced to that: its own tokens then count too much, but still nothing.
    """
    fall = decay.clamp(-LARGEST_RISE / chunk, LARGEST_FALL / chunk)[:, None, None]
    own = bonus.clamp(*OWN_RANGE)[:, None, None]
    rise = torch.relu(-fall) * chunk
    position = torch.arange(chunk, device=decay.device)
    distance = (position[:, None] - position).abs()
    lift = torch.where(fall < 0, 0.0, LIFT)
    inside = torch.where(distance == 0, own, -fall * (distance - 1)) - rise + lift
    to_border = torch.stack([chunk - 1 - position, position])
    to_sums = -fall * to_border.mT - rise + lift
    from_sums = -fall * to_border.flip(0) - rise

    index = torch.arange(2 * count, device=decay.device)
    index_chunk, in_future = index // 2, index % 2
    ahead = index_chunk[:, None] - index_chunk  # of the target, in chunks
    steps = torch.where(in_future[:, None] == 1, ahead, -ahead)
    seen = (in_future[:, None] == in_future) & (steps > 0)
    between = -fall * chunk * (ahead.abs() - 1).clamp(min=0) + rise
    # Over both sides, so that past and future are reduced alike.
    gain = between.amax(1, keepdim=True)
    between = torch.where(seen, between - torch.relu(gain - LARGEST_GAIN), -torch.inf)
    return ChunkWeights(*(torch.exp(exponent) for exponent in (inside, to_sums, between, from_sums)))
