"""The command: verify, time what is right, print and write the tables."""

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gpu import timing
from gpu.cases import OPS, other_cases, timed_cases, tiny_cases
from gpu.isolation import Failure, run_jobs
from gpu.models import IMAGES, OPS_OF_MODEL, VIT, VRWKV, VRWKV6, ModelJob, time_model
from gpu.op_times import TRITON, OpJob, time_op
from gpu.rivals import RIVALS
from gpu.table import Report, render
from gpu.verify import Verification, verify, verify_portable
from vrwkv.ops.triton_runtime import INTERPRETED

SECONDS = {True: 115.0, False: 570.0}  # of the whole run, quick or not
SECONDS_PER_JOB = 100.0
SECONDS_TO_TIME = {True: 0.1, False: 0.25}  # of the repetitions of one task
FAILED, NO_GPU = 1, 2

run_on_device = partial(run_jobs, seconds_per_job=SECONDS_PER_JOB)


def main(arguments: list[str] | None = None, description: str | None = None) -> int:
    """Run the benchmark; returns the exit status: 0, 1 if a kernel failed, 2 without a GPU."""
    options = parser(description).parse_args(arguments)
    if torch.cuda.is_available() and not INTERPRETED:
        return run(options, "cuda")
    if options.verify_only and INTERPRETED:
        return run(options, "cpu")
    print(
        "Nothing was run: there is no CUDA GPU for torch here, or TRITON_INTERPRET is set. On a CPU, "
        "`TRITON_INTERPRET=1 python benchmarks/gpu.py --verify-only` checks the kernels."
    )
    return NO_GPU


def run(options: argparse.Namespace, device: str) -> int:
    """Verify, time what is right, print and write; returns the exit status."""
    seconds = options.seconds or SECONDS[options.quick]
    deadline = time.time() + seconds
    # A kernel that hangs must not take the time of everything else.
    verified = verify_ops(device, options.ops, options.quick, deadline - (0 if options.verify_only else seconds / 2))
    wrong = failures(verified, options.ops)
    right = [op for op in options.ops if op not in wrong]
    for op, reasons in wrong.items():
        print(f"{op} FAILED verification, it is not timed: {reasons[0]}", flush=True)
    if options.verify_only:
        print(f"verified: {', '.join(right) or 'nothing'}")
        return FAILED if wrong else 0
    report = Report("", options=_options_text(options), verified=verified)
    time_everything(report, right, options, device, deadline)
    _write(report, options)
    crashed = crashes(report)
    for reason in crashed:
        print(f"FAILED: {reason}")
    return FAILED if wrong or crashed else 0


def _write(report: Report, options: argparse.Namespace) -> None:
    """Print the page; write it, unless the run was a quick one and no folder was named."""
    page = render(report)
    print(page)
    output = options.output or (None if options.quick else Path(__file__).parents[2] / "docs" / "benchmarks")
    if output is not None and report.copy_bandwidth is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "gpu.md").write_text(page, encoding="utf-8")
        (output / "gpu.json").write_text(json.dumps(asdict(report), indent=1), encoding="utf-8")


def verify_ops(device: str, ops: Sequence[str], quick: bool, deadline: float) -> list[Verification | Failure]:
    """Every case of these ops. On a GPU the ops take a process each, at the same time: most of it is compiling."""

    def one_op(op: str) -> list[Verification | Failure]:
        others = other_cases(op)[: 1 if quick else None]
        cases = tiny_cases(op) if device == "cpu" else timed_cases(op, quick=quick) + others
        options: dict[str, Any] = {"deadline": deadline, "isolated": device != "cpu", "report": _print_verification}
        reference = run_on_device(verify_portable, tiny_cases(op)[:1], "cpu", **{**options, "isolated": False})
        return reference + run_on_device(verify, cases, device, **options)

    if device == "cpu":
        return [found for op in ops for found in one_op(op)]
    with ThreadPoolExecutor(len(ops)) as pool:
        return [found for several in pool.map(one_op, ops) for found in several]


def failures(verified: list[Verification | Failure], ops: Sequence[str] = OPS) -> dict[str, list[str]]:
    """What is wrong with each op that cannot be trusted.

    Cases for which there was no time are not held against an op, unless it has no other.
    """
    found: dict[str, list[str]] = {}
    for op in ops:
        mine = [one for one in verified if (one.case if isinstance(one, Verification) else one.job).op == op]
        reasons = [
            f"{one.case.name} {one.case.shape}: {one.failure}"
            for one in mine
            if isinstance(one, Verification) and one.failure
        ]
        reasons += [
            f"{one.job.name} {one.job.shape}: {one.reason}" for one in mine if isinstance(one, Failure) and not one.late
        ]
        if not reasons and not any(isinstance(one, Verification) and one.case.dtype != "float64" for one in mine):
            reasons = ["no case was checked in time"]
        if reasons:
            found[op] = reasons
    return found


def op_jobs(ops: list[str], quick: bool, report: Report) -> tuple[list[OpJob], list[OpJob]]:
    """Our kernels at the shapes at which they are right, and rivals, in the order of interest."""
    copy_bandwidth = report.copy_bandwidth or 0.0
    right = [one.case for one in report.verified if isinstance(one, Verification) and not one.failure]
    cases = [case for op in ops for case in timed_cases(op, quick=quick) if case in right]
    ours = [OpJob(case, TRITON, copy_bandwidth) for case in cases]
    plain = sorted(
        (case for case in cases if not case.gate), key=lambda case: (case.tokens != 4096, -case.tokens, -case.batch)
    )
    rivals = [OpJob(case, name, copy_bandwidth) for case in plain for name in RIVALS[case.op]]
    return ours, [] if quick else rivals


def model_jobs(ops: list[str], quick: bool, whole: bool) -> list[list[ModelJob]]:
    """For each mode the jobs of each model whose ops are right; compiled ones first, since the targets are theirs.

    All models in one mode come before the next: the targets are ratios, and time may be up at any of them.
    """
    modes = [(False, True)] if quick else [(False, True), (True, True), (False, False), (True, False)]
    sizes = (224, 2048) if quick else tuple(IMAGES)
    return [
        [ModelJob(model, IMAGES[size], size, training, compiled, whole) for size in sizes]
        for training, compiled in modes
        for model in (VRWKV, VIT, VRWKV6)
        if set(OPS_OF_MODEL[model]) <= set(ops)
    ]


def time_everything(report: Report, ops: list[str], options: argparse.Namespace, device: str, deadline: float) -> None:
    """Fill the report: our ops, the models, and rivals in the time that is left."""
    seconds, isolated = SECONDS_TO_TIME[options.quick], device != "cpu"
    how: dict[str, Any] = {"deadline": deadline, "isolated": isolated, "report": _print_row}
    (found,) = run_on_device(measure_machine, [device], deadline=deadline, isolated=isolated)
    if isinstance(found, Failure):
        report.machine = f"Nothing was timed, since a copy of memory could not be: {found.reason}"
        return
    report.machine, report.copy_bandwidth, before = found
    report.clocks = [before]
    ours, rivals = op_jobs(ops, options.quick, report) if options.only != "models" else ([], [])
    report.ops += _flat(run_on_device(time_op, ours, device, seconds, **how))
    report.clocks.append(timing.clocks())
    if options.only != "ops":
        for jobs in model_jobs(ops, options.quick, options.whole):
            report.models += _flat(run_on_device(time_model, jobs, device, seconds, **how))
    report.ops += _flat(run_on_device(time_op, rivals, device, seconds, **how))


def measure_machine(device: str) -> tuple[str, float, str]:
    """The device in words, its copy's bytes per second, and its clocks just after."""
    bandwidth = timing.copy_bandwidth(device)
    return timing.machine(device), bandwidth, timing.clocks()


def crashes(report: Report) -> list[str]:
    """Our own rows that have no numbers, unless the time was up. Rivals may fail."""
    found = [] if report.copy_bandwidth is not None else [report.machine]
    for row in [*report.ops, *report.models]:
        job = row.job
        ours = job.implementation == TRITON if isinstance(job, OpJob) else job.model != VIT
        reason = row.reason if isinstance(row, Failure) else row.note
        if ours and reason and not (isinstance(row, Failure) and row.late):
            found.append(f"{job.name}: {reason}")
    return found


def _flat(results: list[Any]) -> list[Any]:
    return [row for result in results for row in (result if isinstance(result, list) else [result])]


def _print_verification(found: Verification | Failure) -> None:
    case = found.case if isinstance(found, Verification) else found.job
    reason = found.failure if isinstance(found, Verification) else found.reason
    errors = ", ".join(f"{name} {error:.0e}" for name, error in getattr(found, "errors", {}).items())
    print(f"{'WRONG' if reason else 'right'}  {case.name} {case.shape}: {reason or errors}", flush=True)


def _print_row(found: Any) -> None:
    if isinstance(found, Failure):
        print(f"{found.job.name}: {found.reason}", flush=True)
        return
    for row in found:
        direction = getattr(row, "direction", "")
        print(f"{row.job.name} {direction}: {row.note or f'{1e3 * row.times.median:.3f} ms'}", flush=True)


def _options_text(options: argparse.Namespace) -> str:
    seconds = f"--seconds {options.seconds:g}" if options.seconds else ""
    texts = {
        seconds: options.seconds,
        "--quick": options.quick,
        f"--only {options.only}": options.only,
        f"--ops {' '.join(options.ops)}": list(options.ops) != list(OPS),
        "--whole": options.whole,
    }
    return "".join(f" {text}" for text, given in texts.items() if given)


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="under 2 minutes: few shapes, no rivals; writes no page")
    found.add_argument("--seconds", type=float, help="of the whole run, by default 570, or 115 with --quick")
    found.add_argument("--only", choices=("ops", "models"), help="time only these; everything is verified")
    found.add_argument("--ops", nargs="+", choices=OPS, default=OPS, help="only these, and models made of these")
    found.add_argument("--whole", action="store_true", help="compile whole models and not their blocks (slow)")
    found.add_argument("--verify-only", action="store_true", help="time nothing; also in Triton's interpreter")
    found.add_argument("--output", type=Path, help="folder of gpu.md and gpu.json, by default docs/benchmarks")
    return found
