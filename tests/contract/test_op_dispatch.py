"""Which backend runs an op: argument, then VRWKV_BACKEND, then the best that can; and what is said when none can."""

from typing import Any

import pytest
import torch
from torch import Tensor
from wkv_ops_under_test import WKV_OPS, WkvOp

from vrwkv.errors import InputError
from vrwkv.ops import available_backends, bi_wkv, bi_wkv6, dispatch, explain_backends
from vrwkv.ops.dispatch import Backend, register_backends, select_backend

REASON = "it needs a machine of next year"
every_op = pytest.mark.parametrize("op", WKV_OPS, ids=lambda op: op.name)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_backends", dict(dispatch._backends))
    monkeypatch.delenv("VRWKV_BACKEND", raising=False)


class Recorder:
    """Backends that note which of them ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def backend(self, name: str, **arguments: Any) -> Backend:
        def run(*tensors: Tensor | None) -> Tensor:
            self.ran.append(name)
            assert tensors[3] is not None
            return tensors[3].clone()

        return Backend(name, run, **arguments)


@pytest.fixture
def recorder() -> Recorder:
    recorder = Recorder()
    register_backends(
        "bi_wkv",
        recorder.backend("broken", refuse=lambda *tensors: REASON),
        recorder.backend("picky", refuse=lambda *tensors: "float64 only" if is_single(tensors) else None),
        recorder.backend("good"),
        recorder.backend("oracle", automatic=False),
    )
    return recorder


def is_single(tensors: tuple[Tensor, ...]) -> bool:
    return any(tensor.dtype != torch.float64 for tensor in tensors)


def call(dtype: torch.dtype = torch.float32, **arguments: Any) -> Tensor:
    return bi_wkv(
        torch.ones(2), torch.ones(2), torch.ones(1, 3, 2, dtype=dtype), torch.ones(1, 3, 2, dtype=dtype), **arguments
    )


@every_op
def test_portable_backend_and_oracle_are_always_there(op: WkvOp) -> None:
    names = available_backends(op.name)
    assert {"torch", "naive"} <= set(names)
    assert explain_backends(op.name) | dict.fromkeys(names, "available") == explain_backends(op.name)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        assert select_backend(op.name, "torch", torch.ones(1, dtype=dtype)).name == "torch"


@every_op
def test_oracle_is_never_the_automatic_choice(op: WkvOp) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        assert select_backend(op.name, None, torch.ones(1, dtype=dtype)).name != "naive"
    register_backends(op.name, *[backend for backend in dispatch._backends[op.name] if not backend.automatic])
    with pytest.raises(ValueError, match=f"no backend of {op.name} can run"):
        op.function(*op.draw(3))


def test_automatic_choice_is_the_best_that_can(recorder: Recorder) -> None:
    call()
    call(torch.float64)
    assert recorder.ran == ["good", "picky"]


def test_variable_beats_automatic_choice_and_argument_beats_variable(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRWKV_BACKEND", "oracle")
    call()
    call(backend="good")
    monkeypatch.setenv("VRWKV_BACKEND", "")
    call()
    assert recorder.ran == ["oracle", "good", "good"]


def test_available_and_explained(recorder: Recorder) -> None:
    assert available_backends("bi_wkv") == ["picky", "good", "oracle"]
    assert explain_backends("bi_wkv") == {
        "broken": REASON,
        "picky": "available",
        "good": "available",
        "oracle": "available",
    }


def test_asking_for_a_backend_that_cannot_run(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"backend 'broken' cannot run bi_wkv here: {REASON}"):
        call(backend="broken")
    with pytest.raises(ValueError, match="backend 'picky' cannot run bi_wkv here: float64 only"):
        call(backend="picky")
    monkeypatch.setenv("VRWKV_BACKEND", "broken")
    with pytest.raises(InputError, match=f"VRWKV_BACKEND 'broken' cannot run bi_wkv here: {REASON}"):
        call()
    assert recorder.ran == []


@every_op
def test_unknown_backend(op: WkvOp, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"backend 'warp' does not exist for {op.name}.*naive"):
        op.function(*op.draw(3), backend="warp")
    with pytest.raises(ValueError, match="backend '' does not exist"):
        op.function(*op.draw(3), backend="")
    monkeypatch.setenv("VRWKV_BACKEND", "warp")
    with pytest.raises(InputError, match="VRWKV_BACKEND 'warp' does not exist"):
        op.function(*op.draw(3))


def test_unknown_op() -> None:
    for function in (available_backends, explain_backends):
        with pytest.raises(ValueError, match=r"op 'bi_wkv7' is unknown.*bi_wkv6"):
            function("bi_wkv7")


def test_one_op_s_backends_do_not_touch_another_s(recorder: Recorder) -> None:
    inputs = WKV_OPS[1].draw(5)
    assert bi_wkv6(*inputs, backend="torch").shape == inputs[2].shape
    with pytest.raises(ValueError, match="backend 'torch' does not exist for bi_wkv;"):
        call(backend="torch")


def test_where_it_does_not_pay_a_backend_runs_only_if_named(recorder: Recorder) -> None:
    register_backends(
        "bi_wkv",
        recorder.backend("compiled", worthwhile=lambda k: k.numel() >= 7),
        recorder.backend("plain"),
    )
    call()  # 6 elements
    call(backend="compiled")
    bi_wkv(torch.ones(7), torch.ones(7), torch.ones(1, 1, 7), torch.ones(1, 1, 7))
    assert recorder.ran == ["plain", "compiled", "compiled"]


@pytest.mark.parametrize("name", ["sigmoid_gate", "squared_relu", "tanh"])
def test_short_calls_are_left_to_torch(name: str) -> None:
    if "cpu" not in available_backends(name):
        pytest.skip("no compiled kernels here")
    assert select_backend(name, None, torch.ones(100)).name == "torch"
    assert select_backend(name, "cpu", torch.ones(100)).name == "cpu"
    assert select_backend(name, None, torch.ones(1 << 18)).name == "cpu"
