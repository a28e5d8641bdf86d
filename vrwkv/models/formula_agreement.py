"""How far the released kernels' Bi-WKV lies from the paper's, as a function of the decay: measured, not assumed."""

from functools import lru_cache

import torch
from torch import Tensor

from vrwkv.ops import bi_wkv, bi_wkv_published

# Beyond these decays the released form is far from the paper's at any number of tokens that a model sees.
LARGEST_DECAY = 64.0
STEP = 1.0
TOLERANCE = 0.01


def formula_difference(decay: Tensor, num_tokens: int, *, chunks: int = 32, samples: int = 2) -> Tensor:
    """Relative L2 difference of `bi_wkv_published` from `bi_wkv` per channel, in float64.

    Args:
        decay: (C,) as the model stores it.
        num_tokens: T, by which both forms divide the decay.
        chunks: of the released kernel.
        samples: sequences of normally distributed keys and values that the difference is taken over; every channel
            sees the same ones, and the bonus is the published starting value ln 0.3.

    Returns:
        (C,) float64.
    """
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, samples, num_tokens, 1, generator=generator, dtype=torch.float64)
    decay = decay.detach().double().cpu()
    k, v = (tensor.expand(-1, -1, decay.shape[0]).contiguous() for tensor in (k, v))
    bonus = torch.full_like(decay, 0.3).log()
    paper = bi_wkv(decay, bonus, k, v)
    released = bi_wkv_published(decay, bonus, k, v, chunks=chunks)
    return (released - paper).norm(dim=(0, 1)) / paper.norm(dim=(0, 1))


@lru_cache(maxsize=16)
def agreement_range(num_tokens: int, *, chunks: int = 32, tolerance: float = TOLERANCE) -> tuple[float, float]:
    """Smallest and largest decay such that both forms of Bi-WKV differ by at most `tolerance` in between.

    Args:
        num_tokens, chunks: as in `formula_difference`.
        tolerance: relative L2 difference of the operator's output.

    Returns:
        The ends of the range around 0, in steps of one, at most 64 from it.
    """
    steps = round(LARGEST_DECAY / STEP)
    decay = torch.arange(-steps, steps + 1, dtype=torch.float64) * STEP
    agrees = formula_difference(decay, num_tokens, chunks=chunks) <= tolerance
    below, above = agrees[: steps + 1].flip(0).long().cumprod(0).sum(), agrees[steps:].long().cumprod(0).sum()
    return -STEP * max(int(below) - 1, 0), STEP * max(int(above) - 1, 0)
