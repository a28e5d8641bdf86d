"""How do time and memory grow with the size of the image, next to a vision transformer?

`python benchmarks/image_sizes.py` measures VRWKV-T's and timm's ViT-T's features of one image, float32 on the CPU, from
224 to 16384 pixels, and writes docs/benchmarks/image_sizes.md and .json. Every row is a fresh process with a time
limit; the table is written anew after each, so that what was measured survives an interruption. Outputs are checked
before a time is printed: finite everywhere, and at small sizes equal to the portable backend's.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from cpu import DOCS, machine
from cpu_accuracy import relative_error
from cpu_memory import WARM_UP_SIZE
from cpu_models import LARGEST_DIFFERENCE, OURS, VIT, build, images_of, portable_ops
from cpu_report import table

SIZES = (224, 512, 1024, 2048, 4096, 8192, 16384)
LIMIT = 600.0
CHECKED_UP_TO = 512
"""Pixels up to which outputs are compared with the portable backend's, which takes long beyond."""
ENOUGH = 5.0
"""Seconds of measured passes after which there is no further one; at most REPETITIONS."""
REPETITIONS = 9
HOW = (
    "Features of the whole image (`forward_features`), float32, batch 1, random weights and pixels, eager. Each row is "
    "a fresh process, in which a small image has passed through the model once. Time is the median of nine further "
    "passes, or of those that fit into 5 s, after one that is not counted; where that took 5 s or more, it is the one "
    "that counts. Memory is the largest resident set of the whole process (VmHWM): Python, libraries, weights and the "
    f"image included. Every output is finite; up to {CHECKED_UP_TO} px those of vrwkv_tiny agree with the portable "
    "backend's (largest difference below, relative to the largest output). A model that did not finish within the "
    "limit was stopped, and its larger images were not tried."
)


def measure(name: str, size: int) -> dict[str, Any]:
    """Seconds, peak resident bytes and difference from the portable backend of one model at one size, in this process.

    Raises:
        SystemExit: an output is not finite, or too far from the portable backend's.
    """
    model = build(name).eval()
    image = images_of(1, size)
    seconds: list[float] = []
    with torch.inference_mode():
        model.forward_features(images_of(1, min(size, WARM_UP_SIZE)))
        begun = time.perf_counter()
        features = model.forward_features(image)
        first = time.perf_counter() - begun
        # The peak of what is timed; the portable backend, which needs more, runs afterwards.
        if not features.isfinite().all():
            raise SystemExit(f"{name} at {size} px: an output is not finite: not timed")
        while first < ENOUGH and len(seconds) < REPETITIONS and sum(seconds) < ENOUGH:
            begun = time.perf_counter()
            model.forward_features(image)
            seconds.append(time.perf_counter() - begun)
        peak = largest_resident()
        difference = _difference(name, size, lambda: model.forward_features(image), features)
    tokens = features.shape[1] - getattr(model, "num_prefix_tokens", 0)
    every = seconds or [first]
    return {
        "seconds": statistics.median(every),
        "all": every,
        "peak_bytes": peak,
        "tokens": tokens,
        "difference": difference,
    }


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


def _difference(name: str, size: int, compute: Callable[[], torch.Tensor], features: torch.Tensor) -> float | None:
    if name != OURS or size > CHECKED_UP_TO:
        return None
    with portable_ops():
        expected = compute()
    difference = relative_error(features, expected)
    if not difference <= LARGEST_DIFFERENCE:
        raise SystemExit(f"{name} at {size} px: {difference:.1e} from the portable backend: not timed")
    return difference


def measure_in_fresh_process(name: str, size: int, limit: float) -> dict[str, Any]:
    """What `measure` finds in a process of its own, or {"stopped": seconds} or {"failed": reason}."""
    request = json.dumps({"name": name, "size": size, "threads": torch.get_num_threads()})
    try:
        finished = subprocess.run(
            [sys.executable, __file__, "--measure", request], capture_output=True, text=True, timeout=limit
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


def measure_all(sizes: Sequence[int], limit: float, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All rows of ours, then all of the rival's; a model that failed or was stopped is not tried on larger images."""
    ascending = sorted(set(sizes))
    raw: dict[str, Any] = {"machine": machine(), "limit": limit, "rows": {str(size): {} for size in ascending}}
    for name in (OURS, VIT):
        gave_up: int | None = None
        for size in ascending:
            logging.info("%s  %s at %s px", time.strftime("%H:%M:%S"), name, size)
            found = measure_in_fresh_process(name, size, limit) if gave_up is None else {"skipped": gave_up}
            if gave_up is None and "seconds" not in found:
                gave_up = size
            raw["rows"][str(size)][name] = found
            report(raw)
    return raw


def render(raw: dict[str, Any]) -> str:
    """The page in Markdown."""
    head = ("image, px", "tokens", "vrwkv_tiny, s", "vit_tiny, s", "ViT / ours", "vrwkv_tiny, MiB", "vit_tiny, MiB")
    cells = []
    differences = []
    for size, row in raw["rows"].items():
        ours, rival = row.get(OURS, {}), row.get(VIT, {})
        ratio = f"{rival['seconds'] / ours['seconds']:.2f}" if "seconds" in ours and "seconds" in rival else "–"
        tokens = next((each["tokens"] for each in (ours, rival) if "tokens" in each), "–")
        cells.append(
            (
                size,
                str(tokens),
                _time(ours, raw["limit"]),
                _time(rival, raw["limit"]),
                ratio,
                _memory(ours),
                _memory(rival),
            )
        )
        if ours.get("difference") is not None:
            differences.append(f"{size} px: {ours['difference']:.0e}")
    return "\n".join(
        [
            "# Image sizes",
            "",
            f"{raw['machine']}. `python benchmarks/image_sizes.py` reproduces this page; "
            "image_sizes.json has every pass.",
            "",
            HOW,
            "",
            *table(head, cells),
            f"Largest difference from the portable backend: {', '.join(differences) or 'not compared at these sizes'}.",
            "",
        ]
    )


def _time(found: dict[str, Any], limit: float) -> str:
    if "seconds" in found:
        return f"{found['seconds']:.3g}"
    if "stopped" in found:
        return f"stopped after {_minutes(limit)}"
    if "skipped" in found:
        return f"not tried: gave up at {found['skipped']} px"
    return found.get("failed", "not measured")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} s"


def _memory(found: dict[str, Any]) -> str:
    return f"{found['peak_bytes'] / 2**20:.0f}" if "peak_bytes" in found else "–"


def write(raw: dict[str, Any], folder: Path) -> None:
    """Both files, complete or as they were."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"image_sizes.json": json.dumps(raw, indent=1, ensure_ascii=False) + "\n", "image_sizes.md": render(raw)}
    for name, text in texts.items():
        temporary = folder / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / name)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="PIXELS", help="default: 224 … 16384")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS", help="of a process (default: 600)")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of the results (default: docs/benchmarks)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.measure is not None:
        request = json.loads(options.measure)
        torch.set_num_threads(request["threads"])
        print(json.dumps(measure(request["name"], request["size"])))
        return
    if min(options.sizes) < 1 or options.limit <= 0:
        parser.error("sizes and the limit must be greater than 0")
    raw = measure_all(options.sizes, options.limit, lambda partial: write(partial, options.output))
    print(render(raw))


if __name__ == "__main__":
    main()
