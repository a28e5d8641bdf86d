"""How much memory a task takes beyond what was there before, each in a fresh process.

`python benchmarks/cpu_memory.py '{"task": "inference", "size": 1024, "threads": 2}'` prints a JSON object.

Two things are told apart. `live`: large blocks are mapped one by one and leave with the tensor (a fixed
MALLOC_MMAP_THRESHOLD_), so that the peak is what the program holds at once. `resident`: glibc's defaults, where freed
blocks stay in a heap that fragments; this differs from run to run, hence the median of several processes.
"""

import contextlib
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import timm
import torch

import vrwkv  # noqa: F401  registers the models

MODEL = "vrwkv_tiny_patch16_224"
WARM_UP_SIZE = 384  # pixels; tokens enough to load the kernels that walk in chunks
MAPPED_BLOCK = 1 << 16  # bytes from which on a block is mapped on its own, for `live`: far below a tensor of 512 px
HOW = (
    "Each number comes from fresh processes: the model is built and runs once on an image of "
    f"{WARM_UP_SIZE} px, so that libraries, kernels and gradients are in place; glibc gives its free memory back "
    "(malloc_trim); then the largest resident set of the process (VmHWM) during the task, less the resident set just "
    "before, is taken. The task makes its images itself, so they count. (getrusage's ru_maxrss would not do: a process "
    "inherits that of the one that started it.) Live: blocks from 64 KiB are mapped one by one "
    f"(MALLOC_MMAP_THRESHOLD_={MAPPED_BLOCK}), so freed tensors leave at once. Resident: glibc's defaults, which keep "
    "freed blocks in a heap that fragments; median of several processes."
)


class Peak(TypedDict):
    """Bytes of one measurement; `tokens` and `channels` are what the model made of the image."""

    bytes: int
    tokens: int
    channels: int


def _status(field: str) -> int:
    """A size from /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status does not show {field}: memory is measured on Linux only")


def _give_back_free_memory() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only; others keep less
    if trim is not None:
        trim(0)


def peak_bytes(task: Callable[[], object]) -> int:
    """Largest resident set while `task` runs, less the resident set before it.

    Raises:
        OSError: not on Linux, or `task` stayed below what the process had held earlier and the kernel keeps that mark.
    """
    _give_back_free_memory()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew from the present size
    before, earlier = _status("VmRSS"), _status("VmHWM")
    task()
    peak = _status("VmHWM")
    if peak <= earlier and earlier > before + (1 << 20):
        raise OSError("the process had held more memory before, and the kernel does not let it reset the mark")
    return peak - before


def inference_peak(size: int) -> Peak:
    """Peak above the weights of a forward pass on one image of `size` pixels, the image included."""
    model = timm.create_model(MODEL).eval()

    def run(pixels: int) -> None:
        with torch.inference_mode():
            if not model(torch.rand(1, 3, pixels, pixels)).isfinite().all():
                raise SystemExit(f"{MODEL} at {pixels} px: an output is not finite")

    run(WARM_UP_SIZE)
    return _peak(lambda: run(size), size, model.embed_dim)


def training_peak(size: int, checkpointing: bool) -> Peak:
    """Peak above weights and their gradients of a forward and backward pass on one image of `size` pixels."""
    model = timm.create_model(MODEL).train()
    model.set_grad_checkpointing(checkpointing)

    def run(pixels: int) -> None:
        model(torch.rand(1, 3, pixels, pixels)).square().sum().backward()

    run(WARM_UP_SIZE)
    return _peak(lambda: run(size), size, model.embed_dim)


def _peak(task: Callable[[], None], size: int, channels: int) -> Peak:
    return {"bytes": peak_bytes(task), "tokens": (size // 16) ** 2, "channels": channels}


TASKS: dict[str, Callable[[int], Peak]] = {
    "inference": inference_peak,
    "training": lambda size: training_peak(size, checkpointing=False),
    "training, checkpointed": lambda size: training_peak(size, checkpointing=True),
}


def measure_in_fresh_process(task: str, size: int, *, live: bool = True) -> Peak:
    """The peak of one of TASKS, live or resident, with the number of threads of this process.

    Raises:
        SystemExit: the process failed; the message ends with what it said.
    """
    request = json.dumps({"task": task, "size": size, "threads": torch.get_num_threads()})
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    if live:
        environment["MALLOC_MMAP_THRESHOLD_"] = str(MAPPED_BLOCK)
    finished = subprocess.run([sys.executable, __file__, request], env=environment, capture_output=True, text=True)
    if finished.returncode:
        raise SystemExit(f"memory of {task} at {size} px could not be measured:\n{finished.stderr[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def measure_memory(
    inference: tuple[int, ...], training: tuple[int, ...], processes: int
) -> dict[str, dict[str, dict[str, Peak]]]:
    """Peaks at each size in pixels, by task, "live" or "resident", and "1024 px"; resident ones are medians."""
    found: dict[str, dict[str, dict[str, Peak]]] = {"inference": {"live": {}, "resident": {}}}
    for size in inference:
        found["inference"]["live"][f"{size} px"] = measure_in_fresh_process("inference", size)
        peaks = [measure_in_fresh_process("inference", size, live=False) for _ in range(processes)]
        middle = int(statistics.median(peak["bytes"] for peak in peaks))
        found["inference"]["resident"][f"{size} px"] = {**peaks[0], "bytes": middle}
    for task in ("training", "training, checkpointed"):
        found[task] = {"live": {f"{size} px": measure_in_fresh_process(task, size) for size in training}}
    return found


def main() -> None:
    """Measure the one task of the argument and print it as JSON."""
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    print(json.dumps(TASKS[request["task"]](request["size"])))


if __name__ == "__main__":
    main()
