"""Runs a compiled loop on the threads that torch itself computes with.

torch's builds for Linux bring GNU OpenMP along. Its threads keep spinning for milliseconds after each of torch's
own ops, so that a second pool would have to share the cores with them; starting our loops through the same library
puts those very threads to work. Where that library is missing, and in forked processes, where its threads are gone
for good, a small pool of our own takes over.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

GRAIN = 32768  # numbers that a loop must write for each thread; waking it takes as long as some 20000. As torch's own.
Loop = Callable[[int, int, int], None]  # (first task, one past the last task, address of the arguments); frees the GIL
Call = tuple[Loop, int, int, int]  # a compiled loop, its address, number of tasks, address of the arguments


class _State:
    """What a process knows about its threads; a fork starts afresh."""

    def __init__(self, forked: bool) -> None:
        self.forked = forked
        self.lock = threading.Lock()
        self.pool: ThreadPoolExecutor | None = None
        self.pool_size = 0

    def own_pool(self, size: int) -> ThreadPoolExecutor:
        with self.lock:
            if self.pool is None or self.pool_size < size:
                self.pool = ThreadPoolExecutor(size, thread_name_prefix="vrwkv")
                self.pool_size = size
            return self.pool


_state = _State(forked=False)


def _after_fork() -> None:
    global _state
    _state = _State(forked=True)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def openmp() -> ctypes.CDLL | None:
    """GNU OpenMP as torch has loaded it, or None."""
    for library in sorted(Path(torch.__file__).parent.rglob("libgomp*.so*")) + sorted(
        (Path(torch.__file__).parents[1] / "torch.libs").glob("libgomp*.so*")
    ):
        try:
            # Only a library that is in the process already: a second copy would have threads of its own.
            found = ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            found.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            found.GOMP_parallel.restype = None
        except (OSError, AttributeError):
            continue
        return found
    return None


def run_in_turn(calls: Sequence[Call], elements: int) -> None:
    """Run loops on torch's threads, each after the one before is done with all its tasks; threads are woken once.

    Every thread gets a run of consecutive tasks of each loop. Returns when all are done.

    Args:
        calls: the loops.
        elements: how many numbers one of them writes, about; a thread gets GRAIN of them or more.
    """
    threads = min(torch.get_num_threads(), max([tasks for _, _, tasks, _ in calls]), elements // GRAIN)
    if threads <= 1:
        for loop, _, tasks, arguments in calls:
            loop(0, tasks, arguments)
        return
    library = None if _state.forked else openmp()
    if library is not None:
        from vrwkv.ops.cpu_runtime.team import member_address

        words = [len(calls)]
        for call in calls:
            words += call[1:]
        shared = (ctypes.c_int64 * len(words))(*words)
        library.GOMP_parallel(member_address(), ctypes.addressof(shared), threads, 0)
        return
    pool = _state.own_pool(threads - 1)
    for loop, _, tasks, arguments in calls:
        bounds = [tasks * part // threads for part in range(threads + 1)]
        others = [pool.submit(loop, bounds[part], bounds[part + 1], arguments) for part in range(1, threads)]
        loop(bounds[0], bounds[1], arguments)
        for other in others:
            other.result()
