"""Plain torch on any device: what compilers fuse with its surroundings."""

import torch
from torch import Tensor


def sigmoid_gate_torch(gate: Tensor, y: Tensor) -> Tensor:
    """sigmoid(gate) · y."""
    return torch.sigmoid(gate) * y


def squared_relu_torch(x: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)²."""
    if inplace:
        return x.relu_().square_()
    positive = torch.relu(x)
    return positive * positive  # exporters make a general power of `square`, which runtimes are slow at


def tanh_torch(x: Tensor, inplace: bool = False) -> Tensor:
    """The hyperbolic tangent."""
    return x.tanh_() if inplace else torch.tanh(x)
