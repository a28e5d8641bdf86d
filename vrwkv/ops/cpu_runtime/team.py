"""What each member of an OpenMP team does: run its share of each loop's tasks, and wait for the others in between."""

import ctypes
from functools import cache
from typing import Any

from llvmlite import ir
from numba import cfunc
from numba.core import types
from numba.extending import intrinsic

from vrwkv.ops.cpu_runtime.threads import openmp
from vrwkv.ops.cpu_runtime.vectors import word_at

_WORD = ir.IntType(64)


@intrinsic
def _call(typingctx, function, first, last, arguments):  # type: ignore[no-untyped-def]
    """Call the compiled loop at the address `function`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        loop = ir.FunctionType(ir.VoidType(), [_WORD] * 3).as_pointer()
        builder.call(builder.inttoptr(args[0], loop), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


@cache
def member_address() -> int:
    """Address of a C function for GOMP_parallel.

    Its argument points to the number of loops, followed by the address, tasks and arguments of each.
    """
    library = openmp()
    assert library is not None
    number, count, wait = library.omp_get_thread_num, library.omp_get_num_threads, library.GOMP_barrier
    for function in (number, count):
        function.argtypes, function.restype = [], ctypes.c_int
    wait.argtypes, wait.restype = [], None

    @cfunc(types.void(types.int64))
    def member(shared):  # type: ignore[no-untyped-def]
        part, parts = number(), count()
        for loop in range(word_at(shared)):
            if loop > 0:
                wait()
            own = shared + 8 + loop * 24
            tasks = word_at(own + 8)
            _call(word_at(own), tasks * part // parts, tasks * (part + 1) // parts, word_at(own + 16))

    _keep.append(member)
    return member.address


_keep: list[Any] = []
