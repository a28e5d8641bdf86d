"""How Bi-WKV6's Triton kernels cut tokens into chunks, and what sizes they are compiled for: functions of shapes."""

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 64


class Chunking(NamedTuple):
    """The chunks of a batch, or of images packed end to end; no chunk holds tokens of two images.

    Attributes:
        images: B, or M packed images.
        chunks: number of chunks, with spare ones that hold nothing after those of packed images.
        chunks_per_image: the same for each image of a batch; 0 for packed images.
        bounds: (chunks, 2) int64, first token and number of tokens of each chunk; None for a batch.
        first_chunk: (M+1,) int64, where each packed image's chunks begin; None for a batch.
    """

    images: int
    chunks: int
    chunks_per_image: int
    bounds: Tensor | None
    first_chunk: Tensor | None

    @staticmethod
    def of_batch(batch: int, tokens: int) -> "Chunking":
        """B images of T tokens each."""
        chunks_per_image = (tokens + CHUNK - 1) // CHUNK
        return Chunking(batch, batch * chunks_per_image, chunks_per_image, None, None)

    @staticmethod
    def of_packed(cu_seqlens: Tensor, tokens: int) -> "Chunking":
        """M images between (M+1,) boundaries.

        How many chunks they need is data, which the host would have to wait for; the most that M images of T tokens
        together can need is known without.
        """
        boundaries = cu_seqlens.long()
        images = boundaries.shape[0] - 1
        chunks = (tokens + images * (CHUNK - 1)) // CHUNK
        counts = (boundaries.diff() + CHUNK - 1) // CHUNK
        first_chunk = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        chunk = torch.arange(chunks, device=boundaries.device)
        image = (torch.searchsorted(first_chunk, chunk, right=True) - 1).clamp(max=images - 1)
        first_token = boundaries[image] + (chunk - first_chunk[image]) * CHUNK
        count = (boundaries[image + 1] - first_token).clamp(0, CHUNK)
        return Chunking(images, chunks, 0, torch.stack([first_token, count], dim=1), first_chunk)


class Sizes(NamedTuple):
    """Sizes that a kernel is compiled for.

    Attributes:
        width: head size padded to a power of two, at least 16 (the smallest tile of a matrix product).
        rows: channels of the keys that a kernel holds at a time; the head size is padded to a multiple of it.
        warps: of 32 threads.
    """

    width: int
    rows: int
    warps: int

    @staticmethod
    def of_head(head_size: int, dtype: torch.dtype) -> "Sizes":
        """For heads of 1 to 128 channels. float32 has products without tensor cores, which hold more in registers."""
        width = max(16, 1 << (head_size - 1).bit_length())
        return Sizes(
            width, 16 if head_size <= 16 or head_size > 64 else 32, 8 if width > 64 or dtype == torch.float32 else 4
        )
