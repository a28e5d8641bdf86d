"""Signals in a loader's worker processes: what is sent to a whole job is for the main process to answer.

Ctrl-C reaches every process of a group, and batch schedulers and `timeout` send SIGTERM to all of them. The main
process takes either as a wish to finish the step and save. For that it needs its workers, and it ends them itself.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Context in which processes start with Ctrl-C and SIGTERM waiting.

    Otherwise those that arrive before `start_worker` has run would end the worker. In this process they wait in the
    calling thread only; another thread may still take one, and Python then runs its handler.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def start_worker(main: int, _worker: int) -> None:
    """First thing that a worker process does.

    Args:
        main: id of the process that owns the loader, the only one whose SIGTERM ends the worker.
    """
    # One process per core is the parallelism; threads on top of it only compete.
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Ignoring SIGTERM would not do: multiprocessing sends it to workers that are left at the end, and waits for them.
    # A handler in Python would not know the sender.
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(main, os.getppid()), daemon=True).start()


def _end_when_told(main: int, parent: int) -> None:
    sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
    # An orphan is nobody's worker any more.
    while sender != main and os.getppid() == parent:
        sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
    # Status 0, as torch's own handler of this signal: another would make the main process report a failure.
    os._exit(0)
