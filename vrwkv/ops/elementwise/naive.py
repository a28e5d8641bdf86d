"""The definitions, in float64."""

import torch
from torch import Tensor


def sigmoid_gate_naive(gate: Tensor, y: Tensor) -> Tensor:
    """sigmoid(gate) · y."""
    return (torch.sigmoid(gate.double()) * y.double()).to(y.dtype)


def squared_relu_naive(x: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)²."""
    return torch.relu(x.double()).square().to(x.dtype)


def tanh_naive(x: Tensor, inplace: bool = False) -> Tensor:
    """The hyperbolic tangent."""
    return torch.tanh(x.double()).to(x.dtype)
