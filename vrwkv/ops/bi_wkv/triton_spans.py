"""How images are cut for Bi-WKV's Triton kernels: functions of shapes, and tables of packed images.

An image's tokens are cut into spans, one for each program; a program's span into chunks, one for each row of its
lanes; and a chunk into blocks, the tokens whose sums it holds in registers at a time.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vrwkv.ops.triton_runtime import INTERPRETED

NEIGHBOURS = 1 if INTERPRETED else 2  # blocks of channels side by side, whose programs are started one after the other


class Cut(NamedTuple):
    """How a program works on a span.

    Attributes:
        chunks, length, block: chunks of a span, tokens of a chunk and of a block.
        channels: of a program; 16 are 32 bytes of a row in half precision, the least that memory moves.
        registers: the most that a thread may have with two channels, and with one; None for as many as it takes. Chosen
            for several programs on a multiprocessor at the same time.
    """

    chunks: int
    length: int
    block: int
    channels: int
    registers: tuple[int | None, int | None]

    @property
    def span(self) -> int:
        """Tokens of a span."""
        return self.chunks * self.length


# Longer chunks need fewer exchanges, shorter ones leave registers for more programs. The interpreter pays for tokens.
if INTERPRETED:
    SHORT, LONG = Cut(4, 2, 2, 16, (None, None)), Cut(8, 4, 2, 16, (None, None))
    SHORT_BACKWARD, LONG_BACKWARD = SHORT, LONG
else:
    SHORT, LONG = Cut(16, 16, 4, 16, (128, None)), Cut(16, 24, 8, 16, (168, 128))
    SHORT_BACKWARD, LONG_BACKWARD = Cut(16, 16, 4, 16, (None, 128)), Cut(32, 12, 4, 8, (None, 128))

# Of the walks through steep channels: tokens that are held in registers at a time, and channels of a program.
STEEP_BLOCK = 2 if INTERPRETED else 4
STEEP_LANES = 32


def cut(tokens: int, *, backward: bool = False) -> Cut:
    """The cut of images of `tokens` tokens, or of packed ones that have so many together."""
    if tokens <= SHORT.span:
        return SHORT_BACKWARD if backward else SHORT
    return LONG_BACKWARD if backward else LONG


def most_spans(batch: int, tokens: int, packed: int | None = None) -> int:
    """At least as many spans as `cut` leads to for `batch` images, or for `packed` images of `tokens` tokens together.

    The exact number is data, which the host must not wait for, where images are packed.
    """
    if packed is None:
        return batch * ((tokens + SHORT.span - 1) // SHORT.span)
    return tokens // SHORT.span + packed


class Spans(NamedTuple):
    """Packed images, cut into spans.

    Attributes:
        table: (spans, 3) int64: first token of the span, first token and number of tokens of its image; (0, 0, 0) for
            spare spans at the end.
        images: (N, 2) int64: first token and number of tokens of each image.
    """

    table: Tensor
    images: Tensor


def cut_packed(cu_seqlens: Tensor, tokens: int, span: int) -> Spans:
    """Tables of images packed end to end, made on their device without waiting for it."""
    boundaries = cu_seqlens.long()
    lengths = boundaries.diff()
    ends = ((lengths + span - 1) // span).cumsum(0)
    firsts = torch.cat([ends.new_zeros(1), ends[:-1]])
    packed = lengths.shape[0]
    number = torch.arange(tokens // span + packed, device=cu_seqlens.device)
    image = torch.searchsorted(ends, number, right=True)
    exists = image < packed
    image = image.clamp(max=packed - 1)
    image_first = boundaries[:-1][image]
    table = torch.stack([image_first + (number - firsts[image]) * span, image_first, lengths[image]], 1)
    return Spans(torch.where(exists[:, None], table, 0), torch.stack([boundaries[:-1], lengths], 1).contiguous())
