"""When compiled kernels may be called without torch's dispatcher, whose Python operators take 50 µs and more a call."""

import torch
from torch import Tensor

from vrwkv.ops.exporting import transformed


def runs_eagerly(x: Tensor) -> bool:
    """Whether `x` is plain memory that nobody traces: no compiler, exporter, transform, fake or wrapped tensor."""
    return (
        type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and torch._C._len_torch_dispatch_stack() == 0
        and not transformed()
    )


def records_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd follows any of the tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
