"""How tokens are cut into chunks and chunks into programs: functions of shapes, and tables of packed images."""

from typing import NamedTuple

import torch
from torch import Tensor

from vrwkv.ops.triton_runtime import INTERPRETED

# Longer chunks move fewer states (32 bytes a chunk, direction and channel), shorter ones lose fewer digits to strong
# decays. A block is what a walk holds in registers, one channel a thread. The interpreter pays for every token of a
# chunk and nothing for lanes; the same code with other numbers.
CHUNK_LENGTH = 4 if INTERPRETED else 64
BLOCK_LENGTH = 2 if INTERPRETED else 8
GRADIENT_BLOCK_LENGTH = 2 if INTERPRETED else 4  # with four states a token, more would leave few programs a processor
LANES = 2048 if INTERPRETED else 128
CARRY_LANES = 256 if INTERPRETED else 32  # few lanes: where there are few images, many small programs hide latency
CARRY_GROUP = 4 if INTERPRETED else 8


def number_of_chunks(batch: int, tokens: int, packed: int | None = None) -> int:
    """Chunks of `batch` images of `tokens` tokens, or at most of `packed` images of `tokens` tokens together.

    The exact number of the latter is data, which the host must not wait for.
    """
    if packed is None:
        return batch * ((tokens + CHUNK_LENGTH - 1) // CHUNK_LENGTH)
    return tokens // CHUNK_LENGTH + packed


def number_of_programs(chunks: int, channels: int) -> int:
    """Programs of each kernel that works on chunks."""
    return (chunks * channels + LANES - 1) // LANES


class Chunks(NamedTuple):
    """Packed images, cut into chunks.

    Attributes:
        table: (chunks, 3) int64: first token of the chunk, first token and number of tokens of its image; (0, 0, 0) for
            spare chunks at the end.
        images: (N, 2) int64: first chunk and number of tokens of each image.
    """

    table: Tensor
    images: Tensor


def cut_packed(cu_seqlens: Tensor, tokens: int) -> Chunks:
    """Tables of images packed end to end, made on their device without waiting for it."""
    boundaries = cu_seqlens.long()
    lengths = boundaries.diff()
    ends = ((lengths + CHUNK_LENGTH - 1) // CHUNK_LENGTH).cumsum(0)
    firsts = torch.cat([ends.new_zeros(1), ends[:-1]])
    packed = lengths.shape[0]
    chunk = torch.arange(number_of_chunks(1, tokens, packed), device=cu_seqlens.device)
    image = torch.searchsorted(ends, chunk, right=True)
    exists = image < packed
    image = image.clamp(max=packed - 1)
    image_first = boundaries[:-1][image]
    table = torch.stack([image_first + (chunk - firsts[image]) * CHUNK_LENGTH, image_first, lengths[image]], 1)
    return Chunks(torch.where(exists[:, None], table, 0), torch.stack([firsts, lengths], 1).contiguous())
