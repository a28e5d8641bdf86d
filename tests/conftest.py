"""Without a GPU, Triton's kernels are checked in its interpreter, which must be on before Triton is imported."""

import os

import torch

if not (torch.cuda.is_available() or torch.xpu.is_available()):
    os.environ.setdefault("TRITON_INTERPRET", "1")
