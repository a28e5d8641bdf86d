"""How fast are the tiny model and timm's ViT of the same size: eager, compiled, and exported to onnxruntime?

Run it with `python benchmarks/export.py`; it needs onnx, onnxscript and onnxruntime, and a C++ compiler for Inductor.
Each runtime has a process of its own, as in use: after torch has computed in it, onnxruntime takes a tenth longer, our
models more so. What a compiled or exported model computes is first compared with the eager one; what disagrees is not
timed. The two models take turns; only the ratios of their medians mean anything.
Writes docs/benchmarks/export.md and export.json.
"""

import argparse
import json
import logging
import platform
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import timm
import torch
from cpu_timing import Times, interleaved
from fresh_process import in_fresh_process, write_page
from torch import Tensor, nn

import vrwkv

OURS, VIT = "vrwkv_tiny_patch16_224", "vit_tiny_patch16_224"
INPUTS = ((8, 224, 31), (1, 1024, 9))  # images, pixels, repetitions
LIMIT = 900.0  # seconds of one process; compiling takes most of them
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


def task_of(name: str, runtime: str, images: Tensor, threads: int) -> tuple[Callable[[], Tensor], float]:
    """A forward pass of a model in a runtime, and how far its logits are from eager ones.

    Raises:
        SystemExit: too far.
    """
    torch.manual_seed(0)
    model = timm.create_model(name, **({"dynamic_img_size": True} if name == VIT else {})).eval()
    with torch.no_grad():  # mixtures with equal parameters would be computed once; only new models have such
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=1e-3)
    eager = torch.inference_mode()(lambda: model(images))
    task: Callable[[], Tensor] = eager
    if runtime == "compiled":
        compiled = torch.compile(model, fullgraph=True, dynamic=False)
        task = torch.inference_mode()(lambda: compiled(images))
    elif runtime == "onnxruntime":
        session = onnxruntime_session(model, images, threads)
        feed = {session.get_inputs()[0].name: images.numpy()}

        def task() -> Tensor:
            return torch.from_numpy(session.run(None, feed)[0])

    expected = eager()
    difference = ((task() - expected).abs().max() / expected.abs().max()).item()
    if not difference <= LARGEST_DIFFERENCE:
        raise SystemExit(f"{name}, {tuple(images.shape)}: {runtime} differs from eager by {difference:.1e}")
    return task, difference


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Times and differences from eager of both models in one runtime, by model."""
    torch.set_num_threads(request["threads"])
    size = request["size"]
    images = torch.randn(request["batch"], 3, size, size, generator=torch.Generator().manual_seed(0))
    found = {name: task_of(name, request["runtime"], images, request["threads"]) for name in (OURS, VIT)}
    times = interleaved({name: task for name, (task, _) in found.items()}, request["repetitions"])
    return {"times": times, "differences": {name: difference for name, (_, difference) in found.items()}}


def render(machine: str, measured: dict[str, dict[str, Any]]) -> str:
    """The page of tables in Markdown."""
    rows = [row for by_runtime in measured.values() for row in by_runtime.values()]
    worst = max(value for row in rows for value in row["differences"].values())
    lines = [
        "# Compiled and exported models",
        "",
        f"{machine}. `python benchmarks/export.py` reproduces this page.",
        "",
        f"{OURS} against {VIT}, inference, each at a fixed input size: torch eager, torch.compile with Inductor, and "
        f"the ONNX file (opset {OPSET}, standard operators only) in onnxruntime. Compiled and exported models differ "
        f"from eager by at most {worst:.0e} of the largest logit. Each row is a process of its own, in which the two "
        "models take turns; medians, quartiles in parentheses.",
        "",
        "| input | runtime | vrwkv_tiny, ms | vit_tiny, ms | images per second, relative to the ViT |",
        "|---|---|---|---|---|",
    ]
    for case, by_runtime in measured.items():
        for runtime, row in by_runtime.items():
            ours, vit = row["times"][OURS], row["times"][VIT]
            ratio = vit["median"] / ours["median"]
            lines.append(f"| {case} | {runtime} | {milliseconds(ours)} | {milliseconds(vit)} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def milliseconds(times: Times) -> str:
    """Median and quartiles for a table."""
    return "{:.0f} ({:.0f} to {:.0f})".format(
        *(1e3 * times[key] for key in ("median", "lower_quartile", "upper_quartile"))
    )


def main() -> None:
    """Compile, export, check, time, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "benchmarks")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)  # the exporter reports every operator that it looks up
        print(json.dumps(measure(json.loads(options.measure))))
        return
    torch.set_num_threads(options.threads)
    measured: dict[str, dict[str, Any]] = {}
    for batch, size, repetitions in INPUTS:
        case = f"{batch}×{size} px"
        measured[case] = {}
        for runtime in RUNTIMES:
            request = {"batch": batch, "size": size, "runtime": runtime, "repetitions": repetitions}
            found = in_fresh_process(__file__, request, LIMIT)
            if "times" not in found:
                raise SystemExit(f"{case}, {runtime}: {found.get('failed', f'stopped after {LIMIT:g} s')}")
            measured[case][runtime] = found
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, timm {timm.__version__}"
    machine = f"{processor()}, {options.threads} threads, float32, {versions}, vrwkv {vrwkv.__version__}"
    page = render(machine, measured)
    print(page)
    write_page({"machine": machine, "measured": measured}, page, options.output, "export")


def processor() -> str:
    """Name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
