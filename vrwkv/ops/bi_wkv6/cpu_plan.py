"""How the compiled loops of Bi-WKV6 divide their work."""

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 8  # tokens whose pairs are weighed one by one; the others meet in the states between chunks
LONGEST_WHOLE = 1024  # tokens of a sequence that one task walks through, which saves the states between segments
USUAL_SEGMENT = 256  # tokens of which all that a task notes down stays in its cache
SHORTEST_SEGMENT = 32


class Plan(NamedTuple):
    """Tables for the compiled loops. A segment is a run of chunks that one task walks through.

    Attributes:
        segments: (n, 2) int64: first token, tokens.
        sequences: (M, 2) int64: first segment and one past the last.
        num_segments: n.
        longest: tokens of the longest segment.
        whole: every sequence is one segment, and there are no states to hand on.
    """

    segments: Tensor
    sequences: Tensor
    num_segments: int
    longest: int
    whole: bool


def make_plan(v: Tensor, cu_seqlens: Tensor | None) -> Plan:
    """A plan for v (B, T, H, N)."""
    batch, tokens, heads, _ = v.shape
    lengths = (tokens,) * batch if cu_seqlens is None else tuple(cu_seqlens.diff().tolist())
    return _plan(lengths, heads, torch.get_num_threads())


@lru_cache(maxsize=64)
def _plan(lengths: tuple[int, ...], heads: int, threads: int) -> Plan:
    usual, whole = USUAL_SEGMENT, LONGEST_WHOLE
    if heads * len(lengths) < threads:
        while usual > SHORTEST_SEGMENT and heads * sum(lengths) < threads * usual:
            usual //= 2
        whole = usual
    segments: list[tuple[int, int]] = []
    sequences, start = [], 0
    for length in lengths:
        count = 1 if length <= whole else -(-length // usual)
        chunks = -(-length // CHUNK)
        bounds = [min(chunks * part // count * CHUNK, length) for part in range(count + 1)]
        sequences.append((len(segments), len(segments) + count))
        segments += [(start + begin, end - begin) for begin, end in pairwise(bounds)]
        start += length
    return Plan(
        torch.tensor(segments),
        torch.tensor(sequences),
        len(segments),
        max(tokens for _, tokens in segments),
        len(segments) == len(lengths),
    )
