"""The pieces of the compiled CPU kernels: their functions, and the threads that they run on."""

import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("numba")

import vrwkv
from vrwkv.ops import bi_wkv
from vrwkv.ops.cpu_runtime import compilation, threads
from vrwkv.ops.cpu_runtime.functions import exp2, exp2_64, load, sigmoid, store
from vrwkv.ops.cpu_runtime.kernel import STORAGE, kernel, run_calls
from vrwkv.ops.cpu_runtime.vectors import load32, load64, store64, store_float, sum_of_lanes, word_at


@kernel
def write_exp2(first, last, arguments):  # type: ignore[no-untyped-def]
    x, y = word_at(arguments), word_at(arguments + 8)
    for task in range(first, last):
        store(y + task * 64, 0, exp2(load(x + task * 64, 0)))


@kernel
def write_exp2_64(first, last, arguments):  # type: ignore[no-untyped-def]
    x, y = word_at(arguments), word_at(arguments + 8)
    for task in range(first, last):
        store64(y + task * 128, exp2_64(load64(x + task * 128)))


@kernel
def write_sigmoid(first, last, arguments):  # type: ignore[no-untyped-def]
    x, y = word_at(arguments), word_at(arguments + 8)
    for task in range(first, last):
        store(y + task * 64, 0, sigmoid(load(x + task * 64, 0)))


@kernel
def round_to_bfloat16(first, last, arguments):  # type: ignore[no-untyped-def]
    x, y = word_at(arguments), word_at(arguments + 8)
    for task in range(first, last):
        store(y + task * 32, 1, load(x + task * 64, 0))


@kernel
def sum_rows(first, last, arguments):  # type: ignore[no-untyped-def]
    x, y = word_at(arguments), word_at(arguments + 8)
    for task in range(first, last):
        store_float(y + task * 4, sum_of_lanes(load32(x + task * 64)))


def test_exponential_is_accurate_and_saturates() -> None:
    x = torch.cat([torch.linspace(-126, 126, 4096), torch.tensor([-1e30, -127.0, -0.0, 1e-30] * 4)])
    y = torch.empty_like(x)
    write_exp2(len(x) // 16, x, y, elements=len(x))
    expected = torch.exp2(x.double().clamp(min=-126))
    assert ((y.double() - expected) / expected).abs().max() < 2.5e-7
    write_exp2(1, torch.full((16,), float("nan")), y, elements=16)
    assert y[:16].isnan().all()


def test_exponential_in_float64() -> None:
    x = torch.linspace(-999, 999, 4096, dtype=torch.float64)
    y = torch.empty_like(x)
    write_exp2_64(len(x) // 16, x, y, elements=len(x))
    assert ((y - torch.exp2(x)) / torch.exp2(x)).abs().max() < 1e-10


def test_sigmoid_at_all_sizes() -> None:
    x = torch.cat([torch.linspace(-80, 80, 1008), torch.tensor([-3e38, 3e38, float("inf"), float("-inf")] * 4)])
    y = torch.empty_like(x)
    write_sigmoid(len(x) // 16, x, y, elements=len(x))
    torch.testing.assert_close(y.double(), torch.sigmoid(x.double()), rtol=1e-5, atol=1e-37)


def test_bfloat16_rounds_as_torch_does() -> None:
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 3.4e38, 1e-40, 0.0] * 16)
    ties = (torch.randn(64).bfloat16().view(torch.int16).int() << 16 | 0x8000).view(torch.float32)
    x = torch.cat([torch.randn(4000), special, ties])
    y = torch.empty(len(x), dtype=torch.bfloat16)
    round_to_bfloat16(len(x) // 16, x, y, elements=len(x))
    torch.testing.assert_close(y, x.bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_lanes_are_summed() -> None:
    x = torch.randn(64, 16)
    y = torch.empty(64)
    sum_rows(64, x, y, elements=64)
    torch.testing.assert_close(y, x.sum(1))


def run_bi_wkv(tokens: int = 700) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 3, tokens, 40, generator=generator)
    return bi_wkv(torch.linspace(-9, 9, 40), torch.linspace(-1, 1, 40), k, v, backend="cpu")


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two threads, however little there is to do."""
    monkeypatch.setattr(threads, "GRAIN", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("own_pool", [False, True])
def test_threads_change_no_bit(two_threads: None, own_pool: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if own_pool:
        monkeypatch.setattr(threads, "openmp", lambda: None)
    several = run_bi_wkv(200)
    torch.set_num_threads(1)
    assert torch.equal(run_bi_wkv(200), several)


def test_an_error_in_a_thread_of_the_own_pool_surfaces(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "openmp", lambda: None)

    def loop(first: int, last: int, arguments: int) -> None:
        if first:
            raise RuntimeError("from the second thread")

    with pytest.raises(RuntimeError, match="second thread"):
        threads.run_in_turn([(loop, 0, 4, 0)], elements=100)


def test_a_thread_is_woken_for_a_grain_of_work_only(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "openmp", lambda: None)
    monkeypatch.setattr(threads, "GRAIN", 1000)
    runs: list[tuple[int, int]] = []
    for elements in (0, 1999, 2000):
        threads.run_in_turn([(lambda first, last, _: runs.append((first, last)), 0, 4, 0)], elements)
    assert sorted(runs) == [(0, 2), (0, 4), (0, 4), (2, 4)]


@pytest.mark.parametrize("own_pool", [False, True])
def test_a_loop_starts_when_the_one_before_is_done(
    two_threads: None, own_pool: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own_pool:
        monkeypatch.setattr(threads, "openmp", lambda: None)
    x, half = torch.rand(16 * 64), 16 * 32 * 4
    for _ in range(20):
        y, z = torch.full_like(x, -1), torch.full_like(x, -1)
        # Each thread reads in its second loop what the other one has written in its first.
        run_calls(
            write_exp2.prepare(64, x, y),
            write_exp2.prepare(32, y.data_ptr() + half, z.data_ptr()),
            write_exp2.prepare(32, y.data_ptr(), z.data_ptr() + half),
            elements=1000,
        )
        torch.testing.assert_close(z, x.exp2().exp2().roll(16 * 32))


def test_the_gil_is_free_while_a_kernel_runs() -> None:
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    started, counted = threading.Event(), 0
    x = torch.zeros(16 * 400_000)
    y = torch.empty_like(x)
    write_exp2(1, x, y, elements=16)

    def compute() -> None:
        started.set()
        for _ in range(40):
            write_exp2(len(x) // 16, x, y, elements=len(x))

    worker = threading.Thread(target=compute)
    worker.start()
    started.wait()
    while worker.is_alive():
        counted += 1
    torch.set_num_threads(torch_threads)
    assert counted > 1000


def _in_a_child(queue: Any) -> None:
    torch.set_num_threads(2)
    queue.put(run_bi_wkv(200).sum().item())


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_works_with_two_threads_after_a_fork(two_threads: None) -> None:
    expected = run_bi_wkv(200).sum().item()  # the parent's threads have run, and do not exist in the child
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_a_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == pytest.approx(expected, rel=1e-6)
    child.join(timeout=60)
    assert child.exitcode == 0


def test_inference_mode_and_half_types() -> None:
    with torch.inference_mode():
        assert run_bi_wkv(50).isfinite().all()
    assert set(STORAGE) == {torch.float32, torch.bfloat16}


def test_a_changed_source_makes_a_kernel_stale(tmp_path: Path) -> None:
    (tmp_path / "cpu_loops.py").write_text("a = 1")
    first = compilation.fingerprint.__wrapped__(tmp_path)
    assert compilation.fingerprint.__wrapped__(tmp_path) == first
    (tmp_path / "cpu_loops.py").write_text("a = 2")
    assert compilation.fingerprint.__wrapped__(tmp_path) != first


def test_without_a_place_for_the_cache_kernels_still_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nowhere(*arguments: Any) -> None:
        raise RuntimeError("no locator available")

    monkeypatch.setattr(compilation, "_SourceCache", nowhere)
    x = torch.ones(32)
    y = torch.empty(2)
    kernel(sum_rows.body)(2, x, y, elements=2)
    assert y.tolist() == [16, 16]
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_all_kernels_can_be_compiled_ahead() -> None:
    from vrwkv.ops.cpu_runtime.precompile import find_kernels

    ops = Path(vrwkv.__file__).parent / "ops"
    declared = sum(file.read_text(encoding="utf-8").count("\n@kernel\n") for file in ops.rglob("*.py"))
    assert len(find_kernels()) == declared > 20


def test_the_first_compilation_is_announced_and_cached(tmp_path: Any) -> None:
    program = (
        "import logging, torch; logging.basicConfig(); from vrwkv.ops import squared_relu; "
        "squared_relu(torch.ones(32), backend='cpu')"
    )
    environment = {**__import__("os").environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        for _ in range(2)
    )
    assert "compiled elementwise.relu_forward" in first.stderr, first.stderr
    assert "compiled" not in second.stderr


def test_a_damaged_cache_is_named_and_compiled_anew(tmp_path: Path) -> None:
    program = (
        "import logging, torch; logging.basicConfig(); from vrwkv.ops import squared_relu; "
        "print(squared_relu(torch.full((32,), 3.0), backend='cpu').sum().item())"
    )
    environment = {**__import__("os").environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)

    run()
    (file,) = tmp_path.rglob("*.nbc")
    for length in (300, 0):
        file.write_bytes(file.read_bytes()[:length])
        damaged, mended = run(), run()
        assert damaged.stdout == mended.stdout == "288.0\n", damaged.stderr
        assert "cannot be read" in damaged.stderr
        assert str(tmp_path) in damaged.stderr
        assert "cannot be read" not in mended.stderr
        (file,) = tmp_path.rglob("*.nbc")
