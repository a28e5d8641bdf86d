"""How fast are the tiny model and timm's ViT of the same size: eager, compiled, and exported to onnxruntime?

Run it with `python benchmarks/export.py`; it needs onnx, onnxscript and onnxruntime, and a C++ compiler for Inductor.
What a compiled or exported model computes is first compared with the eager one; what disagrees is not timed. Times are
medians over interleaved repetitions, so that drifts of the machine hit all alike; only the ratios mean anything.
Writes docs/benchmarks/export.md and export.json.
"""

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import timm
import torch
from torch import Tensor, nn

import vrwkv

OURS, VIT = "vrwkv_tiny_patch16_224", "vit_tiny_patch16_224"
INPUTS = ((8, 224), (1, 1024))  # images, pixels
OPSET = 20
LARGEST_DIFFERENCE = 1e-4  # from eager, relative to its largest logit
RUNTIMES = ("eager", "compiled", "onnxruntime")


def onnxruntime_session(model: nn.Module, images: Tensor, threads: int) -> onnxruntime.InferenceSession:
    """The model exported for exactly these images and loaded again; the file is deleted."""
    program = torch.onnx.export(model, (images,), dynamo=True, opset_version=OPSET, verbose=False)
    foreign = {node.domain for node in program.model.graph} - {""}
    if foreign:
        raise SystemExit(f"the exported file needs operators outside the standard: {sorted(foreign)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin between two runs would slow down whoever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        program.save(path)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def tasks_of(name: str, images: Tensor, threads: int) -> tuple[dict[str, Callable[[], Tensor]], dict[str, float]]:
    """A task per runtime, and how far each is from eager.

    Raises:
        SystemExit: a runtime disagrees with eager.
    """
    torch.manual_seed(0)
    model = timm.create_model(name, **({"dynamic_img_size": True} if name == VIT else {})).eval()
    with torch.no_grad():  # mixtures with equal parameters would be computed once; only new models have such
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=1e-3)
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    session = onnxruntime_session(model, images, threads)
    feed = {session.get_inputs()[0].name: images.numpy()}
    tasks: dict[str, Callable[[], Tensor]] = {
        "eager": torch.inference_mode()(lambda: model(images)),
        "compiled": torch.inference_mode()(lambda: compiled(images)),
        "onnxruntime": lambda: torch.from_numpy(session.run(None, feed)[0]),
    }
    expected = tasks["eager"]()
    differences = {
        runtime: ((tasks[runtime]() - expected).abs().max() / expected.abs().max()).item() for runtime in RUNTIMES[1:]
    }
    for runtime, difference in differences.items():
        if not difference <= LARGEST_DIFFERENCE:
            raise SystemExit(f"{name}, {tuple(images.shape)}: {runtime} differs from eager by {difference:.1e}")
    return tasks, differences


def median_seconds(tasks: dict[str, Callable[[], Tensor]], repetitions: int) -> dict[str, float]:
    """Median time of each task; the tasks take turns, and each runs once unmeasured before every measurement."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repetitions):
        for name, task in tasks.items():
            task()
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(batch: int, size: int, repetitions: int, threads: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds and differences from eager, by "model runtime", for `batch` images of `size` pixels."""
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    tasks: dict[str, Callable[[], Tensor]] = {}
    differences: dict[str, float] = {}
    for name in (OURS, VIT):
        found, apart = tasks_of(name, images, threads)
        tasks |= {f"{name} {runtime}": task for runtime, task in found.items()}
        differences |= {f"{name} {runtime}": value for runtime, value in apart.items()}
    return median_seconds(tasks, repetitions), differences


def render(machine: str, seconds: dict[str, dict[str, float]], differences: dict[str, dict[str, float]]) -> str:
    """The page of tables in Markdown."""
    worst = max(value for values in differences.values() for value in values.values())
    lines = [
        "# Compiled and exported models",
        "",
        f"{machine}. `python benchmarks/export.py` reproduces this page.",
        "",
        f"{OURS} against {VIT}, inference, each at a fixed input size: torch eager, torch.compile with Inductor, and "
        f"the ONNX file (opset {OPSET}, standard operators only) in onnxruntime. Compiled and exported models differ "
        f"from eager by at most {worst:.0e} of the largest logit.",
        "",
        "| input | runtime | vrwkv_tiny, ms | vit_tiny, ms | images per second, relative to the ViT |",
        "|---|---|---|---|---|",
    ]
    for case, times in seconds.items():
        for runtime in RUNTIMES:
            ours, vit = times[f"{OURS} {runtime}"], times[f"{VIT} {runtime}"]
            lines.append(f"| {case} | {runtime} | {1e3 * ours:.0f} | {1e3 * vit:.0f} | {vit / ours:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compile, export, check, time, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "benchmarks")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # the exporter reports every operator that it looks up
    torch.set_num_threads(options.threads)
    seconds, differences = {}, {}
    for batch, size in INPUTS:
        case = f"{batch}×{size} px"
        seconds[case], differences[case] = measure(batch, size, options.repetitions, options.threads)
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, timm {timm.__version__}"
    machine = f"{processor()}, {options.threads} threads, float32, {versions}, vrwkv {vrwkv.__version__}"
    page = render(machine, seconds, differences)
    print(page)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "export.md").write_text(page, encoding="utf-8")
    raw = {"machine": machine, "differences": differences, "seconds": seconds}
    (options.output / "export.json").write_text(json.dumps(raw, indent=1), encoding="utf-8")


def processor() -> str:
    """Name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
