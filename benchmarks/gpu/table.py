"""The page of tables in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gpu.isolation import Failure
from gpu.models import VIT, ModelRow
from gpu.op_times import OpJob, OpRow
from gpu.targets import Target, model_targets, op_target
from gpu.verify import Verification

NONE = "–"


@dataclass
class Report:
    """All that a run found.

    Attributes:
        machine: device and software.
        clocks: state of the device before and after.
        copy_bandwidth: bytes per second; None if not measured.
        options: what was asked for, where it is not everything.
        verified: Verification or Failure of every case.
        ops, models: rows, and Failures of jobs.
    """

    machine: str
    clocks: list[str] = field(default_factory=list)
    copy_bandwidth: float | None = None
    options: str = ""
    verified: list[Verification | Failure] = field(default_factory=list)
    ops: list[OpRow | Failure] = field(default_factory=list)
    models: list[ModelRow | Failure] = field(default_factory=list)


def render(report: Report) -> str:
    """The page."""
    lines = ["# GPU timings", "", f"{report.machine}. `python benchmarks/gpu.py{report.options}` reproduces this page."]
    lines += ["", "nvidia-smi before and after: " + "; ".join(report.clocks)] if any(report.clocks) else []
    lines += ["", _accuracy(report.verified)]
    if report.copy_bandwidth is not None:
        lines += ["", f"A device copy reads and writes {report.copy_bandwidth / 1e9:.0f} GB/s together."]
    lines += _op_table(report.ops) if report.ops else []
    lines += _model_table(report.models) if report.models else []
    return "\n".join(lines) + "\n"


def _accuracy(verified: Sequence[Verification | Failure]) -> str:
    """Largest errors of each op, or what is wrong with it."""
    parts = []
    for op in dict.fromkeys((one.case if isinstance(one, Verification) else one.job).op for one in verified):
        mine = [one for one in verified if isinstance(one, Verification) and one.case.op == op and one.errors]
        output = max((one.errors["output"] for one in mine), default=float("nan"))
        gradient = max((max(e for n, e in one.errors.items() if n != "output") for one in mine), default=float("nan"))
        late = sum(isinstance(one, Failure) and one.late and one.job.op == op for one in verified)
        cases = f"{len(mine)} cases" + (f", {late} more not checked, the time was up" if late else "")
        wrong = [one for one in mine if one.failure]
        wrong_text = f", WRONG in {len(wrong)}" if wrong else ""
        parts.append(f"{op} ({cases}{wrong_text}) output {output:.0e}, gradients {gradient:.0e}")
    return f"Largest errors against float64, half precisions' own rounding included: {'; '.join(parts)}."


def _op_table(rows: Sequence[OpRow | Failure]) -> list[str]:
    lines = [
        "",
        "## Ops",
        "",
        "Time on the device, its L2 cache flushed: median (20 % to 80 % quantile). Host: what the CPU takes to issue "
        "the call. Useful bytes: each input and result once. Ideal: the time in which a copy moves them.",
        "",
        "| op | shape | pass | by | ms | host ms | useful GB/s | % of copy | ideal ms | target |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        job: OpJob = row.job
        start = f"| {job.case.name} | {job.case.shape} |"
        if isinstance(row, Failure):
            lines.append(f"{start} {NONE} | {job.implementation} | {_cell(row.reason)} |{' |' * 5}")
            continue
        start = f"{start} {row.direction if row.times else NONE} | {job.implementation} |"
        if row.times is None or row.bandwidth is None or row.share is None or row.ideal is None:
            lines.append(f"{start} {_cell(row.note)} |{' |' * 5}")
            continue
        times = row.times
        spread = f"{1e3 * times.median:.3f} ({1e3 * times.low:.3f}–{1e3 * times.high:.3f})"
        target = op_target(row)
        verdict = f"{100 * target.wanted:.0f} %: {target.verdict}" if target else ""
        lines.append(
            f"{start} {spread} | {1e3 * times.host:.3f} | {row.bandwidth / 1e9:.0f} | {100 * row.share:.0f} | "
            f"{1e3 * row.ideal:.3f} | {verdict} |"
        )
    return lines


def _model_table(rows: Sequence[ModelRow | Failure]) -> list[str]:
    measured = [row for row in rows if isinstance(row, ModelRow)]
    whole = any(row.job.whole for row in rows)
    lines = [
        "",
        "## Models",
        "",
        "bfloat16. Inference: bfloat16 parameters. Training: forward, backward and AdamW on float32 parameters under "
        f"autocast. Compiled: {'the whole model' if whole else 'its blocks'}, with Inductor, for that size, and "
        "replayed as a CUDA graph, so that the host's time does not count; eager models as they are. The ViT "
        "uses the fastest of torch's attention kernels, and of FlashAttention-3's where that is installed.",
        "",
        "| model | images | pass | | img/s | ms | peak GiB | attention |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        job = row.job
        mode, how = "training" if job.training else "inference", "compiled" if job.compiled else "eager"
        start = f"| {job.model} | {job.images}×{job.size} px | {mode} | {how} |"
        if isinstance(row, Failure) or row.times is None:
            lines.append(f"{start} {_cell(row.reason if isinstance(row, Failure) else row.note)} |{' |' * 3}")
            continue
        spread = f"{1e3 * row.times.median:.2f} ({1e3 * row.times.low:.2f}–{1e3 * row.times.high:.2f})"
        peak = NONE if row.peak is None else f"{row.peak / 2**30:.2f}"
        lines.append(f"{start} {row.images_per_second:.0f} | {spread} | {peak} | {row.attention} |")
    lines += ["", "| target | wanted | found | |", "|---|---|---|---|"]
    lines += [_target_line(target) for target in model_targets(measured)]
    attentions = {row.attention: row.attentions for row in measured if row.job.model == VIT}
    missing = {name: why for found in attentions.values() for name, why in found.items() if isinstance(why, str)}
    lines += ["", "Attention kernels that did not run: " + _attention_notes(missing)] if missing else []
    return lines


def _target_line(target: Target) -> str:
    found = NONE if target.found is None else f"{target.found:.2f}"
    return f"| {target.name} | {'≤' if target.at_most else '≥'} {target.wanted} | {found} | {target.verdict} |"


def _attention_notes(missing: dict[str, str]) -> str:
    return "; ".join(f"{name} ({_cell(why)})" for name, why in missing.items()) + "."


def _cell(text: str) -> str:
    """Text that keeps a table in one piece."""
    return " ".join(text.split()).replace("|", "/")[:200]
