"""Why the compiled CPU kernels cannot run, without importing the compiler."""

from importlib.util import find_spec

import torch
from torch import Tensor

_MISSING_COMPILER = None if find_spec("numba") else "numba is not installed; pip install numba"


def refuse_cpu(*tensors: Tensor) -> str | None:
    """The reason why compiled kernels cannot run on these tensors, or at all; None if they can."""
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"it runs on the CPU, not on {tensor.device}"
        if tensor.dtype == torch.float64:
            return "it computes in float32; float64 is left to the torch backend"
    return _MISSING_COMPILER
