"""One measurement a process: time and largest memory of a forward pass, stopped when it takes too long."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ENOUGH = 5.0
"""Seconds of measured passes after which there is no further one; at most REPETITIONS."""
REPETITIONS = 9
HOW_TIMED = (
    "Each row is a fresh process, in which a small image has passed through the model once. Time is the median of nine "
    "further passes, or of those that fit into 5 s, after one that is not counted; where that took 5 s or more, it is "
    "the one that counts. Memory is the largest resident set of the whole process (VmHWM): Python, libraries, weights "
    "and the image included."
)


def timed(compute: Callable[[], torch.Tensor], name: str) -> tuple[torch.Tensor, dict[str, Any]]:
    """The output of `compute`, and its "seconds" (median), "all" of them, and the process's "peak_bytes".

    Raises:
        SystemExit: an output is not finite; `name` says which.
    """
    seconds: list[float] = []
    begun = time.perf_counter()
    output = compute()
    first = time.perf_counter() - begun
    if not output.isfinite().all():
        raise SystemExit(f"{name}: an output is not finite: not timed")
    while first < ENOUGH and len(seconds) < REPETITIONS and sum(seconds) < ENOUGH:
        begun = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - begun)
    every = seconds or [first]
    return output, {"seconds": statistics.median(every), "all": every, "peak_bytes": largest_resident()}


def largest_resident() -> int:
    """Bytes of the largest resident set that this process has had.

    Raises:
        SystemExit: not on Linux.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status does not show VmHWM: memory is measured on Linux only")


def in_fresh_process(script: str, request: dict[str, Any], limit: float) -> dict[str, Any]:
    """What `script --measure REQUEST` prints as JSON, or {"stopped": seconds} or {"failed": reason}."""
    text = json.dumps({**request, "threads": torch.get_num_threads()})
    try:
        finished = subprocess.run(
            [sys.executable, script, "--measure", text], capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"stopped": limit}
    if finished.returncode:
        return {"failed": _reason(finished)}
    return json.loads(finished.stdout.splitlines()[-1])


def _reason(finished: subprocess.CompletedProcess[str]) -> str:
    if finished.returncode < 0:
        # The kernel's way of ending what asks for more memory than there is.
        return "killed: out of memory" if finished.returncode == -9 else f"ended by signal {-finished.returncode}"
    return (finished.stderr.strip().splitlines() or ["no message"])[-1]


def time_cell(found: dict[str, Any], limit: float) -> str:
    """Seconds for a table, or why there are none."""
    if "seconds" in found:
        return f"{found['seconds']:.3g}"
    if "stopped" in found:
        return f"stopped after {_minutes(limit)}"
    if "skipped" in found:
        return f"not tried: gave up at {found['skipped']} px"
    return found.get("failed", "not measured")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.3g} minutes" if seconds >= 60 else f"{seconds:g} s"


def memory_cell(found: dict[str, Any]) -> str:
    """MiB for a table."""
    return f"{found['peak_bytes'] / 2**20:.0f}" if "peak_bytes" in found else "–"


def write_page(raw: dict[str, Any], page: str, folder: Path, name: str) -> None:
    """NAME.json and NAME.md, complete or as they were."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {f"{name}.json": json.dumps(raw, indent=1, ensure_ascii=False) + "\n", f"{name}.md": page}
    for file, text in texts.items():
        temporary = folder / f".{file}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / file)
