"""Jobs in a process of their own: a crash, a hang or a broken CUDA context costs one job and not the rest."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

START = 60.0  # seconds that a process may take to import everything, on top of a job's
BROKEN = ("CUDA error", "CUDA driver error", "illegal memory access", "unspecified launch failure")


@dataclass(frozen=True)
class Failure:
    """Why a job has no result.

    Attributes:
        job: as given.
        reason: one line.
        broken: the process cannot go on after it.
        late: the whole run's time was up.
    """

    job: Any
    reason: str
    broken: bool = True
    late: bool = False


def run_jobs(
    function: Callable[..., Any],
    jobs: Sequence[Any],
    *arguments: Any,
    deadline: float,
    seconds_per_job: float,
    isolated: bool,
    report: Callable[[Any], None] = lambda result: None,
) -> list[Any]:
    """`function(job, *arguments)` for each job: its result, or a `Failure`.

    Args:
        function: at the top level of a module; job, arguments and result can be pickled.
        deadline: `time.time()` at which no job may be running any more.
        seconds_per_job: that a job may take.
        isolated: in another process, which is started anew after a crash, after a job that took too long and after an
            error that leaves its device unusable. Otherwise here, where only exceptions are caught.
        report: called with each result.
    """
    if not isolated:
        results = []
        for job in jobs:
            results.append(_attempt(function, job, arguments) if time.time() < deadline else _too_late(job))
            report(results[-1])
        return results
    results = []
    while len(results) < len(jobs):
        remaining = jobs[len(results) :]
        if time.time() >= deadline:
            found: list[Any] = [_too_late(job) for job in remaining]
            for result in found:
                report(result)
            return results + found
        results += _run_in_one_process(function, remaining, arguments, deadline, seconds_per_job, report)
    return results


def _run_in_one_process(
    function: Callable[..., Any],
    jobs: Sequence[Any],
    arguments: tuple[Any, ...],
    deadline: float,
    seconds_per_job: float,
    report: Callable[[Any], None],
) -> list[Any]:
    """Results of the first jobs, at least one, as far as one process gets."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, function, jobs, arguments), daemon=False)
    process.start()
    sender.close()  # the child has its own; only then does its end show here
    results: list[Any] = []
    allowed = START + seconds_per_job
    while len(results) < len(jobs):
        job = jobs[len(results)]
        patience = min(allowed, deadline - time.time())
        try:
            if not receiver.poll(max(patience, 0.0)):
                late = patience < allowed
                results.append(Failure(job, f"took more than {max(patience, 0.0):.0f} s", late=late))
            else:
                results.append(receiver.recv())
        except EOFError:
            process.join(10)
            results.append(Failure(job, f"its process ended with exit code {process.exitcode}"))
        report(results[-1])
        if isinstance(results[-1], Failure) and results[-1].broken:
            break
        allowed = seconds_per_job
    process.join(5 if len(results) == len(jobs) else 0)
    if process.is_alive():
        process.kill()
        process.join()
    receiver.close()
    return results


def _serve(sender: Connection, function: Callable[..., Any], jobs: Sequence[Any], arguments: tuple[Any, ...]) -> None:
    """In the other process: send the result of each job, until one breaks the device."""
    for job in jobs:
        result = _attempt(function, job, arguments)
        sender.send(result)
        if isinstance(result, Failure) and result.broken:
            return


def _attempt(function: Callable[..., Any], job: Any, arguments: tuple[Any, ...]) -> Any:
    try:
        return function(job, *arguments)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return Failure(job, " ".join(text.split())[:300], broken=any(word in text for word in BROKEN))


def _too_late(job: Any) -> Failure:
    return Failure(job, "not run: the time was up", broken=False, late=True)
