"""From which sizes on do the compiled CPU kernels pay? Each op on both backends, small sizes to large.

Run it with `python benchmarks/crossovers.py` (two minutes). Backends are first compared with each other: if they
disagree, nothing is timed. Writes docs/benchmarks/crossovers.md and crossovers.json; the bounds in the ops'
`register_backends` are read off it.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cpu import DOCS, machine
from cpu_accuracy import LARGEST_ERROR, outputs, relative_error
from cpu_ops import OPS, inputs_of, with_backward
from cpu_report import table
from cpu_timing import interleaved, summary
from torch import Tensor

from vrwkv.ops.dispatch import select_backend

BACKENDS = ("cpu", "torch")
SHAPES = (  # B, T, C
    (1, 1, 64),
    (1, 16, 64),
    (1, 64, 192),
    (1, 196, 192),
    (2, 196, 192),
    (4, 196, 192),
    (8, 196, 192),
    (1, 4096, 192),
)
MEASUREMENT = 0.005  # seconds; short calls are repeated within one measurement


def compare(op: str, batch: int, tokens: int, channels: int) -> None:
    """Hold the two backends to each other, output and gradients.

    Raises:
        SystemExit: they differ.
    """
    inputs = inputs_of(op, batch, tokens, channels)
    for found, expected in zip(*(outputs(op, inputs, backend) for backend in BACKENDS), strict=True):
        if not (error := relative_error(found, expected)) <= LARGEST_ERROR["gradient"]:
            raise SystemExit(f"{op}, {batch}×{tokens}×{channels}: the backends are {error:.1e} apart: nothing is timed")


def measure(op: str, batch: int, tokens: int, channels: int, repetitions: int) -> dict[str, Any]:
    """Seconds of a call, forward and with backward, by backend; and the backend that is chosen without being named."""
    compare(op, batch, tokens, channels)
    inputs = inputs_of(op, batch, tokens, channels)
    fixed = [tensor.detach() for tensor in inputs]
    run = OPS[op].run
    tasks: dict[str, Callable[[], object]] = {}
    for backend in BACKENDS:
        tasks[f"forward {backend}"] = torch.inference_mode()(lambda backend=backend: run(fixed, backend))
        tasks[f"with backward {backend}"] = with_backward(lambda backend=backend: run(inputs, backend), inputs)
    calls = {}
    for name, task in tasks.items():
        once = interleaved({name: task}, 3)[name]["median"]
        calls[name] = max(1, min(500, int(MEASUREMENT / once)))
    repeated = {name: _repeat(task, calls[name]) for name, task in tasks.items()}
    times = interleaved(repeated, repetitions, warm_up=False)
    seconds = {name: summary([value / calls[name] for value in found["all"]]) for name, found in times.items()}
    chosen = select_backend(op.split()[0], None, max(fixed, key=Tensor.numel)).name
    return {"seconds": seconds, "chosen": chosen}


def _repeat(task: Callable[[], object], calls: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(calls):
            task()

    return run


def render(raw: dict[str, Any]) -> str:
    """The page in Markdown."""
    shapes = list(next(iter(raw["ops"].values())))
    cells = []
    for op, by_shape in raw["ops"].items():
        for kind in ("forward", "with backward"):
            row = []
            for found in by_shape.values():
                ours, plain = (found["seconds"][f"{kind} {backend}"]["median"] for backend in BACKENDS)
                row.append(f"{plain / ours:.2f}" + (" →torch" if found["chosen"] == "torch" else ""))
            cells.append((f"{op}, {kind}", *row))
    lines = [
        "# Where the compiled CPU kernels begin to pay",
        "",
        f"{raw['machine']}. `python benchmarks/crossovers.py` reproduces this page.",
        "",
        "Time of the `torch` backend in that of the `cpu` backend, by B × T × C of the tokens: above 1 the compiled "
        "kernel is faster. squared_relu is on 4·C channels, heads are of 64 channels. →torch: what is chosen when "
        "nobody names a backend (elsewhere it is `cpu`).",
        "",
        *table(("op", *shapes), cells),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Compare, time, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", type=Path, default=DOCS)
    options = parser.parse_args()
    raw: dict[str, Any] = {"machine": machine(), "ops": {}}
    for op in OPS:
        raw["ops"][op] = {
            f"{batch}×{tokens}×{channels}": measure(op, batch, tokens, channels, options.repetitions)
            for batch, tokens, channels in SHAPES
        }
    page = render(raw)
    print(page)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "crossovers.md").write_text(page, encoding="utf-8")
    raw_text = json.dumps(raw, indent=1, ensure_ascii=False)
    (options.output / "crossovers.json").write_text(raw_text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
