"""Where ops are written out in standard operators instead of our own: inside exporters and function transforms."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.autograd import forward_ad

_fixed_chunk: ContextVar[int | None] = ContextVar("fixed_chunk", default=None)


def exporting() -> bool:
    """True under torch.export and the ONNX exporters, False under torch.compile.

    The flag itself is read, because torch.compile of torch 2.11 takes `torch.compiler.is_exporting()` for true.
    """
    if getattr(torch.compiler, "_is_exporting_flag", False):
        return True
    return torch.jit.is_tracing() and torch.onnx.is_in_onnx_export()


def transformed() -> bool:
    """Whether `torch.func` (grad, vmap, jvp and others) or forward-mode differentiation is at work, but no compiler.

    They look into standard operators and not into ours, whose forward-mode derivatives they would take for zero.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def standard_operators_only() -> bool:
    """Whether ops must be written out: an exporter or a transform is at work."""
    return exporting() or transformed()


@contextmanager
def chunks_of(tokens: int) -> Iterator[None]:
    """Have exported scans cut sequences of free length into chunks of so many tokens, not of about their square root.

    A compiler that reasons about sizes (AOTInductor) does not come to an end with roots of products of rounded
    quotients. Such scans need memory with the square of the number of chunks, and treat decays above 60 · T / tokens
    as that.
    """
    token = _fixed_chunk.set(tokens)
    try:
        yield
    finally:
        _fixed_chunk.reset(token)


def fixed_chunk() -> int | None:
    """Tokens in a chunk by `chunks_of`, None outside of it."""
    return _fixed_chunk.get()
