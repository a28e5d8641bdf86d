"""How fast are the kernels on this CPU, next to one Linear layer and to attention on the same tensor?

Run it with `make bench`. Each kernel is first compared with its float64 definition, forward and backward; what
disagrees is not timed. Times are medians over interleaved repetitions, so that drifts of the machine hit all rows
alike; only the ratios mean anything. Writes docs/benchmarks/cpu.md and cpu.json.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

import vrwkv
from vrwkv.ops import bi_wkv, bi_wkv6

SHAPES = ((8, 196, 192), (1, 4096, 192), (1, 16384, 192))
LARGEST_ERROR = {"forward": 2e-5, "gradient": 1e-4}
HEAD_SIZE = 64


def inputs(op: str, batch: int, tokens: int, channels: int, dtype: torch.dtype) -> list[Tensor]:
    """Random inputs of an op, as a freshly initialised model would give it."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    if op == "bi_wkv":
        return [normal(channels), normal(channels), normal(batch, tokens, channels), normal(batch, tokens, channels)]
    heads = channels // HEAD_SIZE
    r, k, v, w = (normal(batch, tokens, heads, HEAD_SIZE) for _ in range(4))
    return [r, k, v, (w - 3).detach().requires_grad_(), normal(heads, HEAD_SIZE)]


OPS: dict[str, Callable[..., Tensor]] = {"bi_wkv": bi_wkv, "bi_wkv6": bi_wkv6}


def check(op: str) -> dict[str, float]:
    """Largest relative errors of an op against its definition in float64.

    Raises:
        SystemExit: an error above the limit.
    """
    results = []
    for dtype, backend in ((torch.float64, "naive"), (torch.float32, None)):
        tensors = inputs(op, 2, 333, 128, dtype)
        y = OPS[op](*tensors, backend=backend)
        results.append(
            [y, *torch.autograd.grad((y * torch.linspace(0.5, 1.5, y.numel()).to(y).view_as(y)).sum(), tensors)]
        )
    errors = [((b.double() - a).abs().max() / a.abs().max()).item() for a, b in zip(*results, strict=True)]
    found = {"forward": errors[0], "gradient": max(errors[1:])}
    for name, limit in LARGEST_ERROR.items():
        if not found[name] <= limit:
            raise SystemExit(f"{op} is wrong by {found[name]:.1e} ({name}, limit {limit:.0e}): nothing is timed")
    return found


def median_seconds(tasks: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Median time of each task; the tasks take turns."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for repetition in range(repetitions + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if repetition:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def time_ops(batch: int, tokens: int, channels: int, repetitions: int) -> dict[str, float]:
    """Median seconds of the ops and of their yardsticks on one shape."""
    linear = torch.nn.Linear(channels, channels)
    x = torch.randn(batch, tokens, channels)
    q = torch.randn(batch, channels // HEAD_SIZE, tokens, HEAD_SIZE)
    tasks: dict[str, Callable[[], object]] = {"linear": lambda: linear(x)}
    if tokens <= 4096:
        tasks["attention"] = lambda: F.scaled_dot_product_attention(q, q, q)
    for op in OPS:
        tensors = inputs(op, batch, tokens, channels, torch.float32)
        fixed = [tensor.detach() for tensor in tensors]
        tasks[op] = lambda op=op, fixed=fixed: OPS[op](*fixed)
        tasks[f"{op} + backward"] = lambda op=op, tensors=tensors: OPS[op](*tensors).sum().backward()
    return median_seconds(tasks, repetitions)


def time_models(repetitions: int) -> dict[str, dict[str, float]]:
    """Median seconds of a forward pass of the tiny models and timm's ViT, 8 images at 224 and 1 at 512 pixels."""
    found = {}
    for batch, size in ((8, 224), (1, 512)):
        images = torch.randn(batch, 3, size, size)
        tasks = {}
        for name in ("vrwkv_tiny_patch16_224", "vrwkv6_tiny_patch16_224", "vit_tiny_patch16_224"):
            kwargs = {"dynamic_img_size": True} if name.startswith("vit") else {}
            model = timm.create_model(name, **kwargs).eval()
            tasks[name] = torch.inference_mode()(lambda model=model, images=images: model(images))
        found[f"{batch}×{size} px"] = median_seconds(tasks, repetitions)
    return found


def processor() -> str:
    """Name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def render(
    machine: str,
    errors: dict[str, dict[str, float]],
    ops: dict[str, dict[str, float]],
    models: dict[str, dict[str, float]],
) -> str:
    """The page of tables in Markdown."""
    accuracy = "; ".join(f"{op} forward {e['forward']:.0e}, gradients {e['gradient']:.0e}" for op, e in errors.items())
    columns = ["bi_wkv", "bi_wkv + backward", "bi_wkv6", "bi_wkv6 + backward", "attention"]
    lines = [
        "# CPU timings",
        "",
        f"{machine}. `make bench` reproduces this page. The kernels are the portable ones (backend `torch`).",
        "",
        f"Errors against float64: {accuracy}.",
        "",
        "Time relative to one Linear(C, C) on the same tensor (B × T × C):",
        "",
        f"| shape | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for shape, times in ops.items():
        cells = [f"{times[name] / times['linear']:.1f}" if name in times else "not run" for name in columns]
        lines.append(f"| {shape} | {' | '.join(cells)} |")
    lines += ["", "Whole models, images per second relative to timm's ViT (eager, inference):", ""]
    lines += ["| input | vrwkv_tiny | vrwkv6_tiny | vit_tiny |", "|---|---|---|---|"]
    for size, times in models.items():
        vit = times["vit_tiny_patch16_224"]
        ours = [vit / times[f"{name}_tiny_patch16_224"] for name in ("vrwkv", "vrwkv6")]
        lines.append(f"| {size} | {ours[0]:.2f} | {ours[1]:.2f} | 1 |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Check, time, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "benchmarks")
    options = parser.parse_args()
    errors = {op: check(op) for op in OPS}
    ops = {f"{b}×{t}×{c}": time_ops(b, t, c, options.repetitions) for b, t, c in SHAPES}
    models = time_models(options.repetitions)
    versions = f"torch {torch.__version__}, timm {timm.__version__}, vrwkv {vrwkv.__version__}"
    machine = f"{processor()}, {torch.get_num_threads()} threads, float32, {versions}"
    page = render(machine, errors, ops, models)
    print(page)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "cpu.md").write_text(page, encoding="utf-8")
    raw = {"machine": machine, "errors": errors, "seconds": {"ops": ops, "models": models}}
    (options.output / "cpu.json").write_text(json.dumps(raw, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
