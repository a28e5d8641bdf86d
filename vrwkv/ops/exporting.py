"""Whether the code runs inside an exporter, where ops are written out in standard operators instead of our own."""

import torch


def exporting() -> bool:
    """True under torch.export and the ONNX exporters, False under torch.compile.

    The flag itself is read, because torch.compile of torch 2.11 takes `torch.compiler.is_exporting()` for true.
    """
    if getattr(torch.compiler, "_is_exporting_flag", False):
        return True
    return torch.jit.is_tracing() and torch.onnx.is_in_onnx_export()
