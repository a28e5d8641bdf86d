"""Compiles loops over tasks and calls them with tensors."""

import ctypes
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vrwkv.ops.cpu_runtime.compilation import compile_cached
from vrwkv.ops.cpu_runtime.threads import run_in_turn
from vrwkv.ops.cpu_runtime.vectors import BFLOAT16, FLOAT32

STORAGE = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16}

_log = logging.getLogger("vrwkv")
_loop_type = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


# A compiled loop, its address, number of tasks and arguments.
Prepared = tuple[Any, int, int, ctypes.Array[ctypes.c_int64]]


def run_calls(*calls: Prepared, elements: int) -> None:
    """Run prepared calls, each when the one before is done; one of them writes so many numbers. Wakes threads once."""
    run_in_turn([(loop, address, tasks, ctypes.addressof(words)) for loop, address, tasks, words in calls], elements)


class Kernel:
    """A loop `body(first, last, arguments)` over tasks, compiled at its first call and cached on disk.

    In the body, `word_at(arguments + 8 · i)` is the i-th argument of the call: the address of a tensor's first element,
    or an integer. It is the caller's job to see to layouts and sizes.
    """

    def __init__(self, body: Callable[..., None]) -> None:
        self.body = body
        self._loop: Any = None
        self._address = 0

    def __call__(self, tasks: int, *arguments: Tensor | int | None, elements: int) -> None:
        """Run `tasks` tasks, which write so many numbers together, on torch's threads. None is passed as 0."""
        run_calls(self.prepare(tasks, *arguments), elements=elements)

    def prepare(self, tasks: int, *arguments: Tensor | int | None) -> Prepared:
        """The same call, for `run_calls`; it does not keep the tensors, which must outlive it."""
        if self._loop is None:
            self.compile()
        words = (ctypes.c_int64 * len(arguments))(
            *[
                argument or 0 if argument is None or type(argument) is int else argument.data_ptr()
                for argument in arguments
            ]
        )
        return self._loop, self._address, tasks, words

    def compile(self) -> None:
        """Compile the loop, or take it from the cache on disk; does nothing the second time."""
        if self._loop is not None:
            return
        start = time.perf_counter()
        compiled = compile_cached(self.body)
        if not compiled.cache_hits:
            op = self.body.__module__.split(".")[-2:-1]
            name = ".".join([*op, self.body.__name__])
            _log.warning("compiled %s for this processor in %.1f s (once)", name, time.perf_counter() - start)
        self._compiled, self._address = compiled, compiled.address
        self._loop = _loop_type(compiled.address)


def kernel(body: Callable[..., None]) -> Kernel:
    """Decorator: see `Kernel`."""
    return Kernel(body)
