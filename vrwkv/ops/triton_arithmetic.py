# mypy: ignore-errors
"""Functions of float32 numbers for Triton kernels, in one instruction each where the GPU is NVIDIA's."""

import torch
import triton
import triton.language as tl

from vrwkv.ops.triton_runtime import PTX


def _oldest_capability() -> tuple[int, int]:
    """Of this machine's GPUs; where there is none, kernels are compiled for newer ones only."""
    return min(map(torch.cuda.get_device_capability, range(torch.cuda.device_count())), default=(9, 0))


NATIVE = tl.constexpr(PTX)
BFLOAT16 = tl.constexpr(PTX and _oldest_capability() >= (8, 0))  # whether there are instructions for bfloat16
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
MINUS_LOG2_E = tl.constexpr(-1.4426950408889634)


@triton.jit
def instruction(x, ASSEMBLY: tl.constexpr):
    """A float32 from one of NVIDIA's instructions."""
    return tl.inline_asm_elementwise(ASSEMBLY, "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def exp2(x):
    """2^x in one instruction: what is below float32's normal numbers is 0."""
    if NATIVE:
        return instruction(x, "ex2.approx.ftz.f32 $0, $1;")
    else:
        return tl.exp2(x)


@triton.jit
def inverse(x):
    """1 / x to one unit in the last place, in one instruction."""
    if NATIVE:
        return instruction(x, "rcp.approx.ftz.f32 $0, $1;")
    else:
        return 1.0 / x


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return inverse(1.0 + exp2(x * MINUS_LOG2_E))
