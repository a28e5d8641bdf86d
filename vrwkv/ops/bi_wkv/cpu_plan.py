"""How the compiled loops of Bi-WKV divide their work, and when the portable backend takes over."""

import ctypes
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from vrwkv.ops.bi_wkv.cpu_forward import find_extremes
from vrwkv.ops.cpu_runtime.vectors import LANES

LONGEST_WHOLE = 256  # tokens of a sequence that is walked through in one go, if there are sequences enough
USUAL_CHUNK = 128
SHORTEST_CHUNK = 32
LARGEST_FADE = 16.0  # natural logarithm of the largest change of a weight inside a chunk
LOWEST_DECAY = -40.0  # below it the scales of distant chunks drift further apart than float32 reaches
LARGEST_STEP = 40.0  # natural logarithms of the change of a weight from token to token, and
LARGEST_BONUS = 20.0  # of a token's extra weight for itself: likewise


class Plan(NamedTuple):
    """Tables for the compiled loops.

    Attributes:
        chunks: (n + 1, 3) int64: first token, tokens, tokens of the sequence. The last row
            is a spare one, for looking ahead.
        sequences: (N, 2) int64: first chunk and one past the last.
        count: n.
        whole: every sequence is one chunk, and there are no states to hand on.
    """

    chunks: Tensor
    sequences: Tensor
    count: int
    whole: bool


def make_plan(decay: Tensor, bonus: Tensor, lengths: tuple[int, ...]) -> Plan | None:
    """A plan for sequences of so many tokens, or None where the portable backend is more accurate.

    Args:
        decay, bonus: (C,) float32, contiguous.
        lengths: tokens of each sequence.
    """
    if max(lengths) == 1:  # the mean of one value, which portable code gives to the last bit
        return None
    found = (ctypes.c_float * 3)()  # torch and numpy take several times as long for a few hundred numbers
    channels = len(decay)
    find_extremes(1, decay, bonus, channels, ctypes.addressof(found), elements=0)
    lowest, highest, largest_bonus = found
    shortest = min(lengths)
    exact = lowest >= LOWEST_DECAY and highest <= LARGEST_STEP * shortest
    if not (exact and largest_bonus <= LARGEST_BONUS * shortest):  # nor if any is NaN
        return None
    return _plan(lengths, max(-lowest, highest), -(-channels // LANES), torch.get_num_threads())


@lru_cache(maxsize=64)
def _tables(lengths: tuple[int, ...], counts: tuple[int, ...]) -> Plan:
    chunks, sequences, start = [], [], 0
    for length, count in zip(lengths, counts, strict=True):
        first_chunk = len(chunks)
        bounds = [length * part // count for part in range(count + 1)]
        for begin, end in pairwise(bounds):
            chunks.append((start + begin, end - begin, length))
        sequences.append((first_chunk, len(chunks)))
        start += length
    whole = all(count == 1 for count in counts)
    return Plan(torch.tensor([*chunks, chunks[-1]]), torch.tensor(sequences), len(chunks), whole)


def _plan(lengths: tuple[int, ...], strongest: float, blocks: int, threads: int) -> Plan:
    """`strongest`: the largest absolute decay over a whole sequence."""
    longest, total = max(lengths), sum(lengths)
    chunk = longest
    if longest > LONGEST_WHOLE or blocks * len(lengths) < threads:
        chunk = min(USUAL_CHUNK, longest)
        while chunk > SHORTEST_CHUNK and blocks * total < 4 * threads * chunk:
            chunk //= 2
    counts = []
    for length in lengths:
        longest_exact = 1 + int(LARGEST_FADE * length / strongest) if strongest > 0 else length
        counts.append(-(-length // max(1, min(chunk, longest_exact))))
    return _tables(lengths, tuple(counts))
