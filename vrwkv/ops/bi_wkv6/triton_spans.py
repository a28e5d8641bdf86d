"""How Bi-WKV6's Triton kernels cut tokens into spans, and what sizes they are compiled for: functions of shapes."""

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 16  # tokens of a step of the walks
SHORTEST = 64  # tokens of a span of the walks, at least, where an image is cut
TILE = 32  # tokens of a span of the gradients, which is a program's
PROGRAMS = 512  # from which images are left whole: four for each of 132 multiprocessors


class Spans(NamedTuple):
    """The spans of a batch, or of images packed end to end; no span holds tokens of two images.

    Attributes:
        images: B, or M packed images.
        length: tokens of a span, the last one of an image excepted.
        num_spans: their number, with spare ones that hold nothing after those of packed images.
        per_image: the same for each image of a batch; 0 for packed images.
        bounds: (num_spans, 2) int64, first token and number of tokens of each span; None for a batch.
        first_span: (M+1,) int64, where each packed image's spans begin; None for a batch.
    """

    images: int
    length: int
    num_spans: int
    per_image: int
    bounds: Tensor | None
    first_span: Tensor | None

    @staticmethod
    def of_batch(batch: int, tokens: int, length: int) -> "Spans":
        """B images of T tokens each."""
        per_image = (tokens + length - 1) // length
        return Spans(batch, length, batch * per_image, per_image, None, None)

    @staticmethod
    def of_packed(cu_seqlens: Tensor, tokens: int, length: int) -> "Spans":
        """M images between (M+1,) boundaries.

        How many spans they need is data, which the host would have to wait for; the most that M images of T tokens
        together can need is known without.
        """
        boundaries = cu_seqlens.long()
        images = boundaries.shape[0] - 1
        count = (tokens + images * (length - 1)) // length
        counts = (boundaries.diff() + length - 1) // length
        first_span = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        span = torch.arange(count, device=boundaries.device)
        image = (torch.searchsorted(first_span, span, right=True) - 1).clamp(max=images - 1)
        first_token = boundaries[image] + (span - first_span[image]) * length
        tokens_of_span = (boundaries[image + 1] - first_token).clamp(0, length)
        return Spans(images, length, count, 0, torch.stack([first_token, tokens_of_span], dim=1), first_span)

    @staticmethod
    def of(v: Tensor, cu_seqlens: Tensor | None, length: int) -> "Spans":
        """Those of v (B, T, H, N), packed or not."""
        batch, tokens = v.shape[:2]
        if cu_seqlens is None:
            return Spans.of_batch(batch, tokens, length)
        return Spans.of_packed(cu_seqlens, tokens, length)


def walked_length(images: int, tokens: int, heads: int) -> int:
    """Tokens that one program walks over: whole images where there are enough of them, else what makes enough spans.

    Spans of less than an image cost another read of the inputs, and a state each.

    Args:
        images: number of images.
        tokens: of an image; packed ones have as many on average.
        heads: number of heads.
    """
    spans = min(-(-PROGRAMS // (images * heads)), -(-tokens // SHORTEST))
    return max(BLOCK, -(-tokens // (spans * BLOCK)) * BLOCK)


class Sizes(NamedTuple):
    """Sizes that a kernel is compiled for.

    Attributes:
        width: head size padded to a power of two, at least 16 (the smallest tile of a matrix product).
        columns: channels of the values that a program of the walks holds.
        warps: of 32 threads, of such a program.
        rows: channels of the keys that a program of the gradients holds, and of the values that it takes at a time.
        rows_warps: warps of such a program.

    Two warps at most: with four, Triton chooses Hopper's asynchronous products, for which ptxas 12.8 (Triton 3.6 comes
    with it) computes wrong addresses in kernels like these.
    """

    width: int
    columns: int
    warps: int
    rows: int
    rows_warps: int

    @staticmethod
    def of_head(head_size: int) -> "Sizes":
        """For heads of 1 to 128 channels."""
        width = max(16, 1 << (head_size - 1).bit_length())
        rows = min(width, 32)
        return Sizes(width, 32 if width > 64 else width, 1 if width < 64 else 2, rows, rows // 16)
