"""What every Triton backend shares: when it can run, and how its launching functions become operators.

Triton is imported by the files that hold kernels, which are imported at the first use of a backend; this file needs
torch only. A backend is declared as

    Backend("triton", run, refuse_triton, automatic=not INTERPRETED)

where `run` imports the kernels inside itself: interpreted kernels are there to be checked, never to be chosen.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef

from vrwkv.ops.exporting import standard_operators_only

# Settled once, as Triton settles it when a kernel is defined; tracing compilers see constants.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
PTX = not INTERPRETED and torch.version.cuda is not None  # whether kernels may hold NVIDIA's instructions
INSTALLED = importlib.util.find_spec("triton") is not None
GPU_TYPES = ("cuda", "xpu")  # AMD's are "cuda" to torch


def refuse_triton(*tensors: Tensor) -> str | None:
    """Why Triton kernels cannot run: on this machine at all or, given tensors, on those. None where they can.

    They take float32, bfloat16 and float16 on a GPU, and on the CPU where Triton's interpreter is on
    (TRITON_INTERPRET=1 when vrwkv is imported).
    """
    if not INSTALLED:
        return "Triton is not installed (pip install triton)"
    if not tensors:
        has_gpu = torch.cuda.is_available() or torch.xpu.is_available()
        return None if INTERPRETED or has_gpu else "there is no GPU (TRITON_INTERPRET=1 runs the kernels on the CPU)"
    for tensor in tensors:
        if tensor.device.type not in GPU_TYPES and not (INTERPRETED and tensor.device.type == "cpu"):
            return f"its kernels run on a GPU, not on {tensor.device.type} (TRITON_INTERPRET=1 runs them on the CPU)"
        if tensor.dtype == torch.float64:
            return "its kernels compute in float32 and would lose digits of float64"
    if standard_operators_only():
        return "exporters, torch.func and forward-mode derivatives need standard operators"
    return None


def triton_operator(
    name: str, fake: Callable[..., Any], *, opaque: bool = False
) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Decorator that makes a function that launches Triton kernels the operator `name`.

    A `torch.library.triton_op`, into which compilers can look; interpreted kernels cannot be traced, so there it is a
    `torch.library.custom_op` and opaque. Either way the result has `register_autograd`.

    Args:
        name: "vrwkv::…".
        fake: the outputs' shapes, dtypes and layouts: same arguments, same structure of results, empty tensors.
        opaque: a `custom_op` in any case: Inductor leaves out options of launches that it does not know (maxnreg), and
            has one graph for sizes that are launched differently.
    """

    def register(function: Callable[..., Any]) -> CustomOpDef:
        kind: Callable[..., Any] = torch.library.custom_op if INTERPRETED or opaque else torch.library.triton_op
        operator: CustomOpDef = kind(name, mutates_args=())(function)
        operator.register_fake(fake)
        return operator

    return register


def wrap_triton(kernel: Any) -> Any:
    """`torch.library.wrap_triton` for kernels launched inside a `triton_operator`; leaves interpreted ones alone.

    It has the name of torch's, by which torch finds the kernels of an operator in its source.
    """
    return kernel if INTERPRETED else torch.library.wrap_triton(kernel)
