"""benchmarks/gpu.py where no GPU is needed: what it refuses to time, what it counts, what it writes."""

import json
import os
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from gpu import command
from gpu.cases import Case, useful_bytes
from gpu.isolation import Failure, run_jobs
from gpu.models import IMAGES, VIT, VRWKV, VRWKV6, ModelJob, ModelRow
from gpu.op_times import DIRECTIONS, OpJob, OpRow
from gpu.table import Report, render
from gpu.timing import Times
from gpu.verify import Verification

from vrwkv.ops.triton_runtime import INSTALLED, INTERPRETED

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
interpreted = pytest.mark.skipif(not (INSTALLED and INTERPRETED), reason="needs Triton's interpreter")


@interpreted
def test_kernels_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--verify-only"]) == 0
    printed = capsys.readouterr().out
    assert "WRONG" not in printed
    assert all(f"right  {op} " in printed for op in command.OPS)


class Spoiled:
    """A kernel whose launch is followed by damage to one of its arguments, or that is not launched at all."""

    def __init__(self, kernel: Any, argument: int, damage: float | None) -> None:
        self.kernel, self.argument, self.damage = kernel, argument, damage

    def __getitem__(self, grid: Any) -> Any:
        def launch(*arguments: Any, **options: Any) -> None:
            if self.damage is not None:
                self.kernel[grid](*arguments, **options)
                arguments[self.argument].view(-1)[-1] += self.damage

        return launch


@interpreted
@pytest.mark.parametrize(
    ("kernel", "argument", "damage", "message"),
    [
        ("outputs_kernel", 3, 0.1, "output is off by"),
        ("outputs_kernel", 3, None, "output is off by nan"),
        ("gradients_kernel", 4, 0.1, "gradient in k is off by"),
    ],
    ids=["output", "unwritten", "gradient"],
)
def test_a_wrong_kernel_is_not_timed(
    kernel: str,
    argument: int,
    damage: float | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    from vrwkv.ops.bi_wkv import triton

    monkeypatch.setattr(triton, kernel, Spoiled(getattr(triton, kernel), argument, damage))
    monkeypatch.setattr(command, "OPS", ("bi_wkv", "shift_mix"))
    monkeypatch.setattr(command, "tiny_cases", lambda op: [Case(op, 2, 6, 1, 4)])
    monkeypatch.setattr(command, "timed_cases", lambda op, quick: [Case(op, 2, 6, 1, 4)])
    options = command.parser().parse_args(["--quick", "--only", "ops", "--output", str(tmp_path)])
    assert command.run(options, "cpu") == 1
    assert f"bi_wkv FAILED verification, it is not timed: bi_wkv 2×6×4 bfloat16: {message}" in capsys.readouterr().out
    assert [row["job"]["case"]["op"] for row in json.loads((tmp_path / "gpu.json").read_text())["ops"]] == [
        "shift_mix",
        "shift_mix",
    ]
    assert "| shift_mix | 2×6×4 bfloat16 | forward | triton |" in (tmp_path / "gpu.md").read_text()


def test_models_of_a_wrong_op_are_not_timed() -> None:
    def models(*ops: str) -> set[str]:
        return {job.model for jobs in command.model_jobs(list(ops), False, False) for job in jobs}

    assert models(*command.OPS) == {VRWKV, VRWKV6, VIT}
    assert models("bi_wkv", "shift_mix") == {VRWKV, VIT}
    assert models("bi_wkv", "bi_wkv6") == {VIT}


def test_cases_without_time_are_no_failures_unless_nothing_was_checked() -> None:
    case = Case("bi_wkv", 2, 5, 1, 8)
    late = Failure(case, "not run: the time was up", broken=False, late=True)
    right, wrong = Verification(case, {"output": 0.0}), Verification(case, {"output": 1.0}, "output is off by 1.0e+00")
    assert "bi_wkv" not in command.failures([right, late])
    assert command.failures([late])["bi_wkv"] == ["no case was checked in time"]
    assert command.failures([right, wrong])["bi_wkv"] == ["bi_wkv 2×5×8 bfloat16: output is off by 1.0e+00"]
    assert command.failures([right, Failure(case, "crashed")])["bi_wkv"] == ["bi_wkv 2×5×8 bfloat16: crashed"]


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 2
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("case", "forward", "both"),
    [
        (Case("bi_wkv", 2, 5, 1, 8), 6, 16),
        (Case("bi_wkv", 2, 5, 1, 8, gate=True), 8, 22),
        (Case("bi_wkv", 2, 5, 1, 8, "float32"), 12, 32),
        (Case("bi_wkv6", 2, 5, 2, 4), 10, 28),
        (Case("shift_mix", 2, 5, 1, 8), 8, 18),
    ],
)
def test_useful_bytes(case: Case, forward: int, both: int) -> None:
    assert useful_bytes(case, backward=False) == forward * 80
    assert useful_bytes(case, backward=True) == both * 80


def test_timed_shapes_are_those_of_the_targets() -> None:
    cases = command.timed_cases("bi_wkv", quick=False)
    assert {case.tokens for case in cases} == {196, 1024, 4096, 16384}
    assert [case for case in cases if case.batch * case.channels < 8192] == [Case("bi_wkv", 1, 16384, 1, 192)]


def op_row(case: Case, direction: str, share: float) -> OpRow:
    ideal = useful_bytes(case, backward=direction != DIRECTIONS[0]) / 4e12
    seconds = ideal / share
    return OpRow(
        OpJob(case, "triton", 4e12), direction, Times(seconds, seconds, seconds, 1e-4), share * 4e12, share, ideal
    )


def model_row(model: str, size: int, images_per_second: float) -> ModelRow:
    seconds = IMAGES[size] / images_per_second
    job = ModelJob(model, IMAGES[size], size, training=False, compiled=True)
    attention = "CUDNN_ATTENTION" if model == VIT else ""
    return ModelRow(job, Times(seconds, seconds, seconds, 1e-3), 2**31, attention)


def test_page_of_made_up_numbers() -> None:
    case, single = Case("bi_wkv", 11, 16384, 1, 768), Case("bi_wkv", 1, 16384, 1, 192)
    report = Report("A made-up GPU", copy_bandwidth=4e12)
    report.verified = [Verification(case, {"output": 3e-3, "k": 2e-3})]
    report.ops = [
        op_row(case, DIRECTIONS[0], 0.7),
        op_row(case, DIRECTIONS[1], 0.44),
        op_row(single, DIRECTIONS[0], 0.1),
    ]
    report.ops += [OpRow(OpJob(case, "a rival", 4e12), DIRECTIONS[0], note="not installed")]
    report.ops += [Failure(OpJob(single, "triton", 4e12), "a | b\nc")]
    report.models = [model_row(VRWKV, 224, 900), model_row(VIT, 224, 1000), model_row(VRWKV6, 224, 600)]
    report.models += [Failure(ModelJob(VIT, 4, 2048, False, True), "out of memory")]
    lines = render(report).splitlines()

    def line(start: str) -> list[str]:
        (found,) = [line for line in lines if line.startswith(start)]
        return [cell.strip() for cell in found.split("|")[1:-1]]

    assert line("| bi_wkv | 11×16384×768 bfloat16 | forward | triton")[4:] == [
        "0.297 (0.297–0.297)", "0.100", "2800", "70", "0.208", "60 %: reached"
    ]  # fmt: skip
    assert line("| bi_wkv | 11×16384×768 bfloat16 | forward + backward")[7:] == ["44", "0.554", "45 %: missed"]
    assert line("| bi_wkv | 1×16384×192 bfloat16 | forward")[-1] == ""
    assert line("| bi_wkv | 11×16384×768 bfloat16 | – | a rival")[4] == "not installed"
    assert line("| bi_wkv | 1×16384×192 bfloat16 | – |")[4] == "a / b c"
    assert line(f"| {VIT} | 256×224 px")[2:] == [
        "inference", "compiled", "1000", "256.00 (256.00–256.00)", "2.00", "CUDNN_ATTENTION"
    ]  # fmt: skip
    assert line("| vrwkv_tiny / vit_tiny, 224 px, inference")[1:] == ["≥ 0.95", "0.90", "missed"]
    assert line("| time of vrwkv6_tiny / vrwkv_tiny, 224 px, inference")[1:] == ["≤ 1.5", "1.50", "reached"]
    assert line("| vrwkv_tiny / vit_tiny, 2048 px, inference")[1:] == ["≥ 5.5", "–", "not measured"]
    for before, after in pairwise(lines):
        if before.startswith("|") and after.startswith("|"):
            assert before.count("|") == after.count("|"), after


def test_jobs_survive_each_other() -> None:
    jobs = ["1 + 1", "1 / 0", "__import__('time').sleep(99)", "__import__('os')._exit(3)", "5"]
    results = run_jobs(eval, jobs, deadline=time.time() + 100, seconds_per_job=2, isolated=True)
    assert results[0] == 2
    assert results[1] == Failure(jobs[1], "ZeroDivisionError: division by zero", broken=False)
    assert "took more than 2 s" in results[2].reason
    assert "exit code 3" in results[3].reason
    assert results[4] == 5
    late = run_jobs(eval, jobs, deadline=time.time() - 1, seconds_per_job=2, isolated=True)
    assert all(result.late for result in late)


def test_the_models_of_a_ratio_follow_each_other() -> None:
    jobs = command.model_jobs(["bi_wkv", "shift_mix", "bi_wkv6"], quick=False, whole=False)
    order = [(several[0].training, several[0].compiled, several[0].model) for several in jobs]
    assert order[:3] == [(False, True, model) for model in (VRWKV, VIT, VRWKV6)]
    assert len(set(order)) == len(order) == 12


def test_a_shorter_run_is_named_on_the_page() -> None:
    assert command._options_text(command.parser().parse_args(["--seconds", "310"])) == " --seconds 310"


@pytest.mark.skipif(not INSTALLED, reason="Triton is not installed")
def test_instructions_are_counted_without_a_gpu(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = [sys.executable, str(BENCHMARKS / "gpu_instructions.py")]
    finished = subprocess.run(script, capture_output=True, text=True, env=environment)
    if finished.returncode and "No such file" in finished.stderr:
        pytest.skip("Triton came without NVIDIA's disassembler")
    assert finished.returncode == 0, finished.stderr
    versions, *kernels = finished.stdout.splitlines()
    assert versions.startswith("triton ")
    counted = {line.partition(",")[0]: line.rpartition(": ")[2] for line in kernels}
    assert len(counted) == 5
    expected = {"bi_wkv6 outputs": 2, "bi_wkv6 updates": 1, "bi_wkv6 gradients": 1, "shift_mix forward": 0}
    for name, steps in expected.items():
        registers, *_, instructions = map(int, re.findall(r"(\d+) (?:reg|B|bar|instr)", counted[name]))
        loops = [int(number) for number in re.findall(r"\d+", counted[name].partition("instructions")[2])]
        assert 0 < registers <= 255
        assert len(loops) == steps
        assert sum(loops) < instructions
    assert " 0 barriers" in counted["shift_mix forward"]
