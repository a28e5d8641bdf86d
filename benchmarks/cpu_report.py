"""The page of tables in Markdown, from the raw measurements."""

from collections.abc import Iterable
from typing import Any

from cpu_memory import HOW
from cpu_models import LARGEST_DIFFERENCE, LINEARS
from cpu_ops import OPS
from cpu_targets import Row, inference_bytes, ratio, target_rows


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a Markdown table."""
    head = list(head)
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def render(raw: dict[str, Any]) -> str:
    """The whole page; parts that were not measured are left out, targets without a number say so."""
    lines = [
        "# CPU timings",
        "",
        *([] if not raw.get("quick") else ["**A smoke run (`--quick`): these numbers are not to be relied on.**", ""]),
        f"{raw['machine']}. `make bench` reproduces this page; cpu.json has every measurement and the quartiles.",
        "",
        "Times are medians over repetitions in which the compared tasks take turns in one process. "
        "Nothing was timed before the kernels had passed the accuracy check below.",
        "",
        *_targets(target_rows(raw)),
        *_errors(raw["errors"]),
    ]
    if raw.get("ops"):
        lines += _ops(raw["ops"])
    for kind, title in (("inference", "Inference"), ("training", "One training step (forward, backward, fused AdamW)")):
        if raw.get(kind):
            lines += _models(title, raw[kind])
    if raw.get("memory"):
        lines += _memory(raw["memory"])
    return "\n".join(lines).rstrip() + "\n"


def _targets(rows: list[Row]) -> list[str]:
    reached, measured = sum(row.verdict == "reached" for row in rows), sum(row.measured is not None for row in rows)
    cells = [
        (
            row.what,
            f"{'≤' if row.at_most else '≥'} {row.target:g}",
            "–" if row.measured is None else f"{row.measured:.4g}",
            f"**{row.verdict}**" if row.verdict == "missed" else row.verdict,
        )
        for row in rows
    ]
    summary = f"{reached} of {len(rows)} targets reached, {measured - reached} missed"
    unmeasured = f", {len(rows) - measured} not measured" if measured < len(rows) else ""
    return ["## Targets", "", f"{summary}{unmeasured}.", "", *table(("", "target", "measured", ""), cells)]


def _errors(errors: dict[str, Any]) -> list[str]:
    shapes = list(next(iter(errors.values())))
    cells = [
        (op, *(f"{by_shape[shape]['forward']:.0e} / {by_shape[shape]['gradient']:.0e}" for shape in shapes))
        for op, by_shape in errors.items()
    ]
    return [
        "## Accuracy",
        "",
        "max|a - b| / max|b| of the output / of the worst gradient against float64, B × T × C; decays of bi_wkv from "
        "-30 to 30. The reference is the definition up to T = 333 (for ops that do not look at all pairs of tokens "
        "everywhere) and beyond it the portable backend in float64, which is held to the definition at T = 333.",
        "",
        *table(("op", *shapes), cells),
    ]


def _ops(ops: dict[str, Any]) -> list[str]:
    shapes = list(ops)
    names = [name for op in OPS for name in (op, f"{op} + backward")] + ["linear + backward", "attention"]
    cells = [
        (name, *(f"{ratio(ops[shape], name, 'linear'):.2f}" if name in ops[shape] else "not run" for shape in shapes))
        for name in names
    ]
    cells.append(("Linear(C, C) forward, ms", *(f"{1e3 * ops[shape]['linear']['median']:.2f}" for shape in shapes)))
    return [
        "## Ops",
        "",
        "Time relative to one Linear(C, C) forward on the same tensor (B × T × C). shift_mix: layer norm and three "
        "mixtures; squared_relu: on 4·C channels; bi_wkv6, head_norm_gate and attention: heads of 64 channels.",
        "",
        *table(("op", *shapes), cells),
    ]


def _models(title: str, cases: dict[str, Any]) -> list[str]:
    cells = []
    worst = 0.0
    for case, found in cases.items():
        worst = max(worst, *found["differences"].values())
        for name, times in found["times"].items():
            speed = "–" if name == LINEARS else f"{found['batch'] / times['median']:.3g}"
            quartiles = f"{1e3 * times['lower_quartile']:.0f} to {1e3 * times['upper_quartile']:.0f}"
            cells.append((case, name, f"{1e3 * times['median']:.0f}", quartiles, speed, str(len(times["all"]))))
    compared = "Outputs" if title == "Inference" else "Gradients"
    return [
        f"## {title}, eager",
        "",
        f"{compared} are finite, and those of our models within {worst:.0e} of the portable backend's (limit "
        f"{LARGEST_DIFFERENCE:.0e}, relative to the largest).",
        "",
        *table(("input", "model", "ms", "quartiles", "images/s", "repetitions"), cells),
    ]


def _memory(memory: dict[str, Any]) -> list[str]:
    cells = []
    for task, kinds in memory.items():
        for kind, peaks in kinds.items():
            for size, peak in peaks.items():
                allowed = inference_bytes(int(size.split()[0]), peak["tokens"], peak["channels"])
                relative = f"{peak['bytes'] / allowed:.2f}" if task == "inference" else "–"
                per_token = f"{peak['bytes'] / peak['tokens'] / 1024:.1f}"
                cells.append((task, kind, size, f"{peak['bytes'] / 2**20:.0f}", per_token, relative))
    head = ("task", "memory", "one image of", "peak, MiB", "KiB per token", "relative to input + 11·T·C·4 B")
    return [
        "## Memory",
        "",
        f"vrwkv_tiny, above the weights (training: above weights and gradients; a forward and backward pass). {HOW}",
        "",
        *table(head, cells),
    ]
