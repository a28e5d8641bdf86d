"""How long a task takes on a device, what a copy of memory reaches, and in which state the machine is."""

import math
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

WARM_UP = 0.025  # seconds
FLUSH_BYTES = 2**30  # far more than any L2 cache; writing it also takes a while, in which the host issues the task
COPY_BYTES = 2**31
MOST_FLUSHES = 40
REPETITIONS = (7, 100)

Task = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Seconds on the device.

    Attributes:
        median, low, high: of the repetitions, with the 20 % and the 80 % quantile.
        host: what the host takes to issue the task, in which the device may be idle.
    """

    median: float
    low: float
    high: float
    host: float


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure(task: Task, device: str, *, flush: bool, seconds: float) -> Times:
    """Time a task, by CUDA events on a GPU.

    Args:
        flush: write a large buffer before each repetition, so that nothing is left in the L2 cache; the task is issued
            meanwhile, so that only the device counts. Without, repetitions follow each other as in use.
        seconds: that the repetitions may take together, about.
    """
    clock = _events if device == "cuda" else _wall_clock
    buffer = torch.empty(FLUSH_BYTES if device == "cuda" else 2**20, dtype=torch.uint8, device=device)
    task()
    synchronize(device)
    host, once, warm, start = math.inf, math.inf, 0, time.perf_counter()
    while warm < 3 or time.perf_counter() - start < WARM_UP:
        before = time.perf_counter()
        task()
        issued = time.perf_counter()
        synchronize(device)
        host, once, warm = min(host, issued - before), min(once, time.perf_counter() - before), warm + 1

    flushes = 0
    if flush:
        filling = min(clock(buffer.zero_, None, 0, 3))
        flushes = min(MOST_FLUSHES, 1 + math.ceil(1.5 * host / filling))
        once += flushes * filling
    repetitions = min(max(int(seconds / once), REPETITIONS[0]), REPETITIONS[1])
    times = clock(task, buffer, flushes, repetitions)
    low, *_, high = statistics.quantiles(times, n=5, method="inclusive")
    return Times(statistics.median(times), low, high, host)


def _events(task: Task, buffer: Tensor | None, flushes: int, repetitions: int) -> list[float]:
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repetitions)]
    for start, end in marks:
        for _ in range(flushes):
            if buffer is not None:
                buffer.zero_()
        start.record()
        task()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in marks]


def _wall_clock(task: Task, buffer: Tensor | None, flushes: int, repetitions: int) -> list[float]:
    times = []
    for _ in range(repetitions):
        for _ in range(flushes):
            if buffer is not None:
                buffer.zero_()
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return times


def copy_bandwidth(device: str) -> float:
    """Bytes per second that copying a large tensor reads and writes together."""
    source = torch.ones(COPY_BYTES if device == "cuda" else 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / measure(lambda: target.copy_(source), device, flush=True, seconds=0.3).median


def machine(device: str) -> str:
    """Device, software and the arithmetic that torch may use, in one line."""
    versions = f"torch {torch.__version__}"
    if device != "cuda":
        return f"{device}, {versions}"
    import triton

    properties = torch.cuda.get_device_properties(0)
    sizes = f"{properties.multi_processor_count} multiprocessors, {properties.total_memory / 2**30:.0f} GiB"
    return (
        f"{properties.name}, {sizes}, L2 {properties.L2_cache_size / 2**20:.0f} MiB, {versions}, "
        f"triton {triton.__version__}, allow_tf32 = {torch.backends.cuda.matmul.allow_tf32}"
    )


def clocks() -> str:
    """Clocks, power and temperature as nvidia-smi tells them; empty without it."""
    if shutil.which("nvidia-smi") is None:
        return ""
    fields = "clocks.sm,clocks.mem,clocks.max.sm,pstate,power.draw,power.limit,temperature.gpu,driver_version"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "nvidia-smi did not answer"
    values = finished.stdout.strip().splitlines()[:1]
    named = zip(fields.split(","), values[0].split(", "), strict=False) if values else []
    return ", ".join(f"{name} {value}" for name, value in named)
