"""Which backend runs an op: the argument, else the environment variable VRWKV_BACKEND, else the best one that can."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vrwkv.errors import InputError

ENVIRONMENT_VARIABLE = "VRWKV_BACKEND"
ALLOW_CPU = (None, "", "cpu")
"""Requests, by argument or environment, under which compiled loops run even where no op is asked for its backend."""


def _never_refuse(*tensors: Tensor) -> None:
    return None


def _always_worthwhile(*tensors: Tensor) -> bool:
    return True


@dataclass(frozen=True)
class Backend:
    """One way to compute an op.

    Attributes:
        name: what users write in `backend=`.
        run: the op itself; all backends of an op share one signature.
        refuse: called without arguments it says why this machine cannot run the backend at all; called with the op's
            tensors, why it cannot run on those. None means that it can.
        automatic: whether it may be chosen without being asked for (the oracles are not).
        worthwhile: whether it is faster than the backends after it on the op's tensors; asked only where nobody has
            named a backend. The bounds are measured by benchmarks/crossovers.py.
    """

    name: str
    run: Callable[..., Any]
    refuse: Callable[..., str | None] = _never_refuse
    automatic: bool = True
    worthwhile: Callable[..., bool] = _always_worthwhile


_backends: dict[str, list[Backend]] = {}


def register_backends(op: str, *backends: Backend) -> None:
    """Declare the backends of `op`, best first."""
    _backends[op] = list(backends)


def available_backends(op: str) -> list[str]:
    """Names of the backends of `op` that this machine can run, best first.

    Raises:
        ValueError: `op` is unknown.
    """
    return [backend.name for backend in _backends_of(op) if backend.refuse() is None]


def explain_backends(op: str) -> dict[str, str]:
    """For each backend of `op`: "available", or the reason why this machine cannot run it.

    Raises:
        ValueError: `op` is unknown.
    """
    return {backend.name: backend.refuse() or "available" for backend in _backends_of(op)}


def select_backend(op: str, requested: str | None, *tensors: Tensor) -> Backend:
    """The backend that computes `op` on `tensors`.

    Args:
        op: name of the op.
        requested: the caller's `backend=` argument; None leaves the choice to VRWKV_BACKEND, then to us.
        tensors: the op's inputs, whose device and dtype a backend may refuse.

    Raises:
        ValueError: the requested backend is unknown or cannot run; the message gives the reason. It is an `InputError`
            where VRWKV_BACKEND asked for it, so that commands end with one line.
    """
    origin, kind = "backend", ValueError
    if requested is None:
        requested = os.environ.get(ENVIRONMENT_VARIABLE) or None
        origin, kind = ENVIRONMENT_VARIABLE, InputError
    backends = _backends_of(op)
    if requested is None:
        for backend in backends:
            if backend.automatic and backend.refuse(*tensors) is None and backend.worthwhile(*tensors):
                return backend
        raise ValueError(f"no backend of {op} can run on these tensors: {explain_backends(op)}")
    for backend in backends:
        if backend.name == requested:
            if reason := backend.refuse(*tensors):
                raise kind(f"{origin} {requested!r} cannot run {op} here: {reason}")
            return backend
    raise kind(f"{origin} {requested!r} does not exist for {op}; it has {[backend.name for backend in backends]}")


def _backends_of(op: str) -> list[Backend]:
    if op not in _backends:
        raise ValueError(f"op {op!r} is unknown; there are {sorted(_backends)}")
    return _backends[op]
