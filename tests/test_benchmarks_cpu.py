"""The CPU benchmark refuses wrong kernels, measures memory that is known, and states plainly what was missed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vrwkv.ops import dispatch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = ((2, 45, 64),)


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delenv("VRWKV_BACKEND", raising=False)


@pytest.fixture
def small_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the float64 references, at T = 333, takes seconds, and the broken kernels leave them as they are."""
    monkeypatch.setattr("cpu_accuracy.check_references", lambda: None)


def break_backends(monkeypatch: pytest.MonkeyPatch, op: str, names: set[str], damage: Any) -> None:
    def broken(backend: dispatch.Backend) -> dispatch.Backend:
        if backend.name not in names:
            return backend
        return replace(backend, run=lambda *arguments: damage(backend.run(*arguments)))

    monkeypatch.setitem(dispatch._backends, op, [broken(backend) for backend in dispatch._backends[op]])


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 1.001


@pytest.mark.usefixtures("small_reference")
def test_right_kernels_pass_the_gate() -> None:
    from cpu_accuracy import LARGEST_ERROR, check_ops

    found = check_ops(SMALL)
    for by_shape in found.values():
        errors = by_shape["2×45×64"]
        assert 0 < errors["forward"] <= LARGEST_ERROR["forward"]
        assert 0 < errors["gradient"] <= LARGEST_ERROR["gradient"]


@pytest.mark.usefixtures("small_reference")
@pytest.mark.parametrize(
    ("op", "damage", "message"),
    [
        ("bi_wkv", lambda y: y * 1.0001, r"bi_wkv, 2×45×64: forward is wrong by 1\.0e-04"),
        ("bi_wkv", lambda y: WrongGradient.apply(y), r"bi_wkv, 2×45×64: gradient is wrong by 1\.0e-03"),
        ("bi_wkv6", lambda y: y * float("nan"), "bi_wkv6, 2×45×64: forward is wrong by nan"),
        ("squared_relu", lambda y: WrongGradient.apply(y), "squared_relu, 2×45×64: gradient is wrong"),
    ],
)
def test_a_wrong_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch, op: str, damage: Any, message: str) -> None:
    from cpu_accuracy import check_ops

    usual = dispatch.select_backend(op, None, torch.empty(2, 45, 64)).name
    break_backends(monkeypatch, op, {usual}, damage)
    with pytest.raises(SystemExit, match=message):
        check_ops(SMALL)


def test_a_wrong_reference_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from cpu_accuracy import check_references

    break_backends(monkeypatch, "bi_wkv", {"torch"}, lambda y: y * (1 + 1e-7))
    with pytest.raises(SystemExit, match="float64 reference is"):
        check_references()


def test_models_are_not_timed_when_backends_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    from cpu_models import check, portable_ops

    class Model(nn.Module):
        def forward(self) -> Tensor:
            usual = dispatch.select_backend("head_norm_gate", None, torch.empty(1)).name
            return torch.tensor([1.0, 1.0 if usual == "torch" else 1.001])

    if "cpu" in dispatch.available_backends("head_norm_gate"):
        with pytest.raises(SystemExit, match="from the portable backend"):
            check("model", "outputs", Model())
    with portable_ops():
        assert check("model", "outputs", Model()) == 0
    with pytest.raises(SystemExit, match="not finite"):
        check("model", "outputs", lambda: torch.tensor([1.0, float("inf")]))


def test_linear_layers_alone_are_all_those_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from cpu_models import linear_layers

    from vrwkv.models import VisionRWKV

    model = VisionRWKV(img_size=32, embed_dim=32, depth=2, num_classes=3).eval()
    products = []
    original = torch.nn.functional.linear

    def recorded(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        products.append((tuple(x.shape), tuple(weight.shape)))
        return original(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", recorded)
    linear_layers(model, 2, 64)()
    block = [((2, 16, 32), (32, 32))] * 5 + [((2, 16, 32), (128, 32)), ((2, 16, 128), (32, 128))]
    assert sorted(products) == sorted([((2, 16, 768), (32, 768)), *block, *block])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured on Linux")
def test_a_known_allocation_is_measured() -> None:
    # The parent holds far more than is measured, and so did the child: neither may be counted.
    program = f"""
import sys; sys.path.insert(0, {str(BENCHMARKS)!r})
import torch
from cpu_memory import peak_bytes
held = torch.ones(200 << 20, dtype=torch.uint8)
def task():
    torch.ones(96 << 20, dtype=torch.uint8)
    torch.ones(64 << 20, dtype=torch.uint8)
del held
print(peak_bytes(task))
"""
    ballast = torch.ones(400 << 20, dtype=torch.uint8)
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(finished.stdout) == pytest.approx(96 << 20, rel=0.05)
    assert ballast.numel() == 400 << 20


def test_tasks_take_turns_and_quartiles_are_reported() -> None:
    from cpu_timing import interleaved, summary

    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == list("aabbaabb")
    assert len(times["a"]["all"]) == 2
    assert summary([4.0, 1.0, 2.0, 3.0, 5.0]) == {
        "median": 3.0,
        "lower_quartile": 2.0,
        "upper_quartile": 4.0,
        "all": [4.0, 1.0, 2.0, 3.0, 5.0],
    }
    assert summary([2.0])["median"] == summary([2.0])["upper_quartile"] == 2.0


def made_up_measurements() -> dict[str, Any]:
    from cpu_ops import OPS
    from cpu_timing import summary

    shape = "1×16384×192"
    names = [name for op in OPS for name in (op, f"{op} + backward")]
    ops = {name: summary([0.003, 0.004, 0.005]) for name in names} | {"linear": summary([0.010])}
    inference = {
        "vrwkv_tiny_patch16_224": summary([0.10]),
        "Linear layers alone": summary([0.05]),
        "vrwkv6_tiny_patch16_224": summary([0.15]),
        "vit_tiny_patch16_224": summary([0.125]),
    }
    peaks = {f"{size} px": {"bytes": 100 * size**2, "tokens": size**2 // 256, "channels": 192} for size in (1024, 2048)}
    return {
        "machine": "An imagined processor, 2 threads",
        "errors": {op: {shape: {"forward": 1e-6, "gradient": 2e-6}} for op in OPS},
        "ops": {shape: ops},
        "inference": {"8×224 px": {"batch": 8, "size": 224, "times": inference, "differences": {"a": 3e-7}}},
        "training": {},
        "memory": {"inference": {"live": peaks}},
    }


def test_the_page_states_what_was_reached_and_missed() -> None:
    from cpu_report import render

    page = render(made_up_measurements())
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert lines["bi_wkv forward, 1×16384×192, relative to one Linear(192, 192) forward on the same tensor"].endswith(
        "| ≤ 0.4 | 0.4 | reached |"
    )
    assert lines["vrwkv_tiny forward, 8×224 px, relative to its Linear layers alone"].endswith(
        "| ≤ 1.35 | 2 | **missed** |"
    )
    assert lines["vrwkv_tiny against vit_tiny, images/s, 8×224 px, both eager"].endswith("| ≥ 1.1 | 1.25 | reached |")
    assert lines["vrwkv_tiny against vit_tiny, images/s, 1×512 px, both eager"].endswith("| ≥ 1.6 | – | not measured |")
    assert lines["vrwkv_tiny, peak memory above the weights, live, 1×2048 px, relative to input + 11·T·C·4 B"].endswith(
        "| ≤ 1.5 | 2.222 | **missed** |"
    )
    assert "An imagined processor" in page
    assert "smoke run" not in page


def test_nan_counts_as_missed() -> None:
    from cpu_targets import Row

    assert [Row("", 1, at_most, float("nan")).verdict for at_most in (True, False)] == ["missed", "missed"]
    assert Row("", 1, True, None).verdict == "not measured"
