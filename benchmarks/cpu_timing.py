"""Times tasks that are compared with each other: in one process, taking turns."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypedDict


class Times(TypedDict):
    """Seconds of one task."""

    median: float
    lower_quartile: float
    upper_quartile: float
    all: list[float]


def interleaved(
    tasks: Mapping[str, Callable[[], object]], repetitions: int, *, warm_up: bool = True
) -> dict[str, Times]:
    """Seconds of each task over repetitions in which the tasks take turns, so that drifts of the machine hit all alike.

    Args:
        tasks: what to time, by name.
        repetitions: measurements of each task.
        warm_up: run each task once unmeasured before every measurement, so that none finds the caches full of
            another's data. Without it nothing runs unmeasured, for tasks that take many seconds and have run before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repetitions):
        for name, task in tasks.items():
            if warm_up:
                task()
            start = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
    return {name: summary(values) for name, values in seconds.items()}


def summary(seconds: list[float]) -> Times:
    """Median and quartiles of measurements; a single one is its own quartile."""
    if len(seconds) == 1:
        lower = median = upper = seconds[0]
    else:
        lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper, "all": seconds}
