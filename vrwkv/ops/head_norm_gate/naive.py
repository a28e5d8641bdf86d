"""The definition, in float64."""

import torch
from torch import Tensor


def head_norm_gate_naive(y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, num_heads: int, eps: float) -> Tensor:
    """(standardised heads of y · weight + bias) · gate · sigmoid(gate)."""
    heads, opening = y.double().unflatten(-1, (num_heads, -1)), gate.double()
    away = heads - heads.mean(-1, keepdim=True)
    plain = (away / torch.sqrt(away.square().mean(-1, keepdim=True) + eps)).flatten(-2)
    return ((plain * weight.double() + bias.double()) * opening * torch.sigmoid(opening)).to(y.dtype)
