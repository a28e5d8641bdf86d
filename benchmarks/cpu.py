"""How fast are the kernels and models on this CPU, next to Linear layers, attention and timm's ViT?

Run it with `make bench` (about ten minutes). The kernels are first compared with float64, forward and backward: if one
is wrong, nothing is timed. What is compared with each other runs in one process and takes turns; only ratios mean
anything. Writes docs/benchmarks/cpu.md and cpu.json; the rows on compiled and exported models come from the
export.json that benchmarks/export.py has left there.
"""

import argparse
import json
import logging
import os
import platform
import time
from pathlib import Path
from typing import Any

import timm
import torch
from cpu_accuracy import SHAPES, check_ops
from cpu_memory import measure_memory
from cpu_models import OURS, OURS_6, VIT, compare_inference, compare_sizes, compare_training
from cpu_ops import time_ops
from cpu_report import render

import vrwkv
from vrwkv.ops.dispatch import select_backend

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
CHANNELS = 192
# batch, pixels, repetitions: fewer where the ViT takes long (25 s a pass at 2048 pixels)
INFERENCE = ((8, 224, 31), (1, 512, 11), (1, 1024, 5), (1, 2048, 2))
TRAINING = ((8, 224, 15), (1, 512, 7), (1, 1024, 3))


def processor() -> str:
    """Name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def versions() -> list[str]:
    """Versions of what the numbers depend on."""
    found = [f"torch {torch.__version__}", f"timm {timm.__version__}", f"vrwkv {vrwkv.__version__}"]
    try:
        import numba
    except ImportError:
        return [*found, "without numba"]
    return [*found, f"numba {numba.__version__}"]


def machine() -> str:
    """Processor, threads, precision, backend and versions, and how busy the machine was."""
    backend = select_backend("bi_wkv", None, torch.empty(1, 2, CHANNELS)).name
    spinning = os.environ.get("GOMP_SPINCOUNT", "the default")
    return (
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads (GOMP_SPINCOUNT: {spinning}), "
        f"float32, backend `{backend}`, {', '.join(versions())}; load average at the start {os.getloadavg()[0]:.1f}"
    )


def export_measurements(folder: Path) -> dict[str, Any] | None:
    """What benchmarks/export.py has left in `folder`, if it ran on this processor with these versions."""
    path = folder / "export.json"
    if not path.exists():
        return None
    raw = json.loads(path.read_text(encoding="utf-8"))
    mentioned = (processor(), f"{torch.get_num_threads()} threads", *versions()[:3])
    return raw if all(name in raw["machine"] for name in mentioned) else None


def measure(quick: bool) -> dict[str, Any]:
    """All measurements except those of benchmarks/export.py; few and small ones with `quick`."""
    raw: dict[str, Any] = {"quick": quick, "machine": machine()}
    _say("accuracy")
    raw["errors"] = check_ops(SHAPES[1:3] if quick else SHAPES)
    shapes = ((8, 196), (1, 4096)) if quick else ((8, 196), (1, 4096), (1, 16384))
    _say("ops")
    raw["ops"] = {f"{b}×{t}×{CHANNELS}": time_ops(b, t, CHANNELS, 3 if quick else 15) for b, t in shapes}
    raw["inference"], raw["training"] = {}, {}
    for batch, size, repetitions in INFERENCE[:1] if quick else INFERENCE:
        _say(f"inference, {batch}×{size} px")
        names = (OURS, OURS_6, VIT)
        raw["inference"][f"{batch}×{size} px"] = compare_inference(names, batch, size, 2 if quick else repetitions)
    for batch, size, repetitions in TRAINING[:1] if quick else TRAINING:
        _say(f"training, {batch}×{size} px")
        raw["training"][f"{batch}×{size} px"] = compare_training(batch, size, 2 if quick else repetitions)
    if not quick:
        _say("one image of 1024 and of 4096 px")
        raw["sizes"] = compare_sizes(1024, 4096, 3)
    _say("memory")
    raw["memory"] = (
        measure_memory((512,), (512,), 1) if quick else measure_memory((1024, 2048, 4096), (512, 1024, 2048), 3)
    )
    return raw


def _say(part: str) -> None:
    logging.info("%s  %s", time.strftime("%H:%M:%S"), part)


def main() -> None:
    """Check, time, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the kernels with float64, and stop")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke run: few, small measurements; prints, writes nothing unless --output is given",
    )
    parser.add_argument("--output", type=Path, help="folder of the results (default: docs/benchmarks)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.check:
        check_ops()
        return
    raw = measure(options.quick)
    folder = options.output or DOCS
    if (exported := export_measurements(folder)) is not None:
        raw["export"] = exported
    page = render(raw)
    print(page)
    if options.output is None and options.quick:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.md").write_text(page, encoding="utf-8")
    (folder / "cpu.json").write_text(json.dumps(raw, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
