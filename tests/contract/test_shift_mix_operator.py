"""shift_mix and bi_shift_mix as operators: torch's own checks, compiled once for all sizes, exported."""

import importlib
import operator
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from shift_mix_cases import CASES, RUNS, Case, Inputs, fast_runs, gradient_of_output, place, stored_transposed
from torch import Tensor, nn
from wkv_ops_under_test import assert_agrees

from vrwkv.ops import bi_shift_mix, shift_mix

ARGUMENTS = ("x", "share", "correction", "norm_weight", "norm_bias")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["plain", "full", "text"])
def test_meta_tensors(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    inputs = {key: x.to("meta").requires_grad_() for key, x in case.draw(dtype).items()}
    y = case.run(None, **inputs)
    assert (y.device.type, y.shape, y.dtype) == ("meta", (case.mixtures, *inputs["x"].shape), dtype)
    y.backward(torch.empty_like(y))
    assert all(x.grad is not None and x.grad.shape == x.shape for x in inputs.values())


OPERATORS = [
    name
    for backend, name in (("torch", "shift_mix"), ("cpu", "shift_mix_cpu"), ("triton", "shift_mix_triton"))
    if (backend, "cpu") in RUNS
]


@pytest.mark.parametrize(
    ("name", "dtype", "layout"),
    [
        ("plain", torch.float32, torch.clone),
        ("full", torch.float32, stored_transposed),
        ("text", torch.bfloat16, stored_transposed),
    ],
)
@pytest.mark.parametrize("op", OPERATORS)
def test_opcheck(op: str, name: str, dtype: torch.dtype, layout: Callable[[Tensor], Tensor]) -> None:
    if op == "shift_mix_triton":
        importlib.import_module("vrwkv.ops.shift_mix.triton")  # registers it
    case = replace(CASES[name], batch=1, grid=CASES[name].grid and (3, 2))
    inputs = {key: layout(x) for key, x in case.draw(dtype, torch.float32).items()}
    bounds = [6, 12, 18, 24, 24] if case.grid else [12, 24, 24, 24, 24]
    where = (case.grid or (1, 7), 1, bounds)
    leaves = [inputs[key].detach().requires_grad_() if key in inputs else None for key in ARGUMENTS]
    torch.library.opcheck(getattr(torch.ops.vrwkv, op).default, (*leaves, 1e-5, *where))
    x, *parameters = (None if leaf is None else leaf.detach() for leaf in leaves)
    _, statistics = getattr(torch.ops.vrwkv, op)(x, *parameters, 1e-5, *where)
    grad = layout(gradient_of_output(case, inputs))
    backward = getattr(torch.ops.vrwkv, f"{op}_backward").default
    torch.library.opcheck(backward, (grad, x, statistics, *parameters, *where))


@pytest.mark.parametrize("name", ["full", "text"])
@fast_runs
def test_one_compilation_for_any_number_of_tokens(backend: str, device: str, name: str) -> None:
    torch.compiler.reset()
    case = replace(CASES[name], batch=1)

    def between(x: Tensor, share: Tensor, **others: Tensor) -> Tensor:
        if case.grid is None:
            return torch.tanh(torch.stack(bi_shift_mix(x * 1.5, share, **others, backend=backend))) * 2
        grid = (x.shape[1] // 6, 6)
        return torch.tanh(torch.stack(shift_mix(x * 1.5, share, grid, **others, backend=backend))) * 2

    compiled = torch.compile(between, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (2, 3, 5):
            inputs = place(replace(case, grid=(rows, 6)).draw(torch.float32), backend, device)
            for key in {"x", "correction"} & set(inputs):
                torch._dynamo.mark_dynamic(inputs[key], 1 if key == "x" else 2)
            leaves = {key: x.requires_grad_() for key, x in inputs.items()}
            grad = gradient_of_output(case, inputs)
            results = []
            for function in (compiled, between):
                y = function(**leaves)
                results.append([y, *torch.autograd.grad(y, [*leaves.values()], grad)])
            for key, one, other in zip(["y", *inputs], *results, strict=True):
                assert_agrees(one, other, key, tolerance=5e-6)


class Mixed(nn.Module):
    """The op as a layer calls it."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case

    def forward(self, x: Tensor, others: Inputs) -> Tensor:
        share = others["share"]
        if self.case.grid is None:
            return torch.stack(bi_shift_mix(x, **others))
        grid = (x.shape[1] // 6, 6)
        others = {key: other for key, other in others.items() if key != "share"} | self.case.options
        return torch.stack(shift_mix(x, share, grid, **others))


@pytest.mark.parametrize("name", ["plain", "full", "shift_2", "text"])
def test_exports_standard_operators_only(name: str) -> None:
    case = replace(CASES[name], correction=False)
    inputs = case.draw(torch.float32)
    x = inputs.pop("x")
    dynamic = {"x": {1: torch.export.Dim.DYNAMIC}, "others": dict.fromkeys(inputs)}
    program = torch.export.export(Mixed(case), (x, inputs), dynamic_shapes=dynamic)
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            assert node.target.namespace in ("aten", "prim", "prims", "sym_size"), node.target
        elif node.op == "call_function":
            assert node.target.__module__ in (operator.__name__, "_operator", "math", "torch"), node.target
    for rows in (4, 9):
        longer = replace(case, grid=(rows, 6)).draw(torch.float32)["x"]
        assert_agrees(program.module()(longer, inputs), Mixed(case)(longer, inputs), "y", tolerance=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_exported_form_is_the_definition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    inputs = case.draw(torch.float64)
    expected = case.run("naive", **inputs)
    monkeypatch.setattr(
        importlib.import_module("vrwkv.ops.shift_mix.operator"), "standard_operators_only", lambda: True
    )
    assert_agrees(case.run("torch", **inputs), expected, "y", tolerance=1e-12)
