"""Bidirectional token shift for text: half of every head looks back, the other half ahead."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vrwkv.ops.argument_checks import check_floating, check_shape


def bi_shift(x: Tensor, *, num_heads: int = 1) -> Tensor:
    """First half of each head from token t-1, second half from token t+1; zeros at the ends.

    RWKV-CLIP's text tower (released code).

    Args:
        x: (B, T, C).
        num_heads: heads that C is divided into.

    Returns:
        (B, T, C).

    Raises:
        ValueError: C is not a multiple of 2 · num_heads.
    """
    check_floating(x=x)
    check_shape("x", x, (None, None, None), "(B, T, C)")
    if num_heads < 1 or x.shape[2] % (2 * num_heads):
        raise ValueError(f"x has {x.shape[2]} channels, which num_heads={num_heads} heads of even size cannot share")
    heads = x.unflatten(2, (num_heads, -1))
    back, ahead = heads.chunk(2, dim=-1)
    shifted = [F.pad(back, (0, 0, 0, 0, 1, 0))[:, :-1], F.pad(ahead, (0, 0, 0, 0, 0, 1))[:, 1:]]
    return torch.cat(shifted, dim=-1).flatten(2, 3)
