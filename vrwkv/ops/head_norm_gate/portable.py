"""Plain torch on any device: what compilers fuse with its surroundings."""

import torch
import torch.nn.functional as F
from torch import Tensor


def head_norm_gate_torch(y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, num_heads: int, eps: float) -> Tensor:
    """(standardised heads of y · weight + bias) · silu(gate)."""
    heads = y.unflatten(-1, (num_heads, -1))
    plain = F.layer_norm(heads, heads.shape[-1:], eps=eps).flatten(-2)
    return (torch.addcmul(bias, plain, weight) * F.silu(gate)).to(y.dtype)
