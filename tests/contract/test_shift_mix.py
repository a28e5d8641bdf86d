"""shift_mix and bi_shift_mix on every backend against their float64 definition, and as operators."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from wkv_ops_under_test import DEVICES, assert_agrees, output_and_gradients, poisoned_memory

from vrwkv.ops import available_backends, bi_shift, bi_shift_mix, q_shift, shift_mix
from vrwkv.ops.dispatch import select_backend

ARGUMENTS = ("x", "share", "correction", "norm_weight", "norm_bias")
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One call: the grid (None: the sequence of `bi_shift_mix`), the tokens after it, and what else is given."""

    grid: tuple[int, int] | None = (4, 6)
    extra: int = 0
    channels: int = 24
    mixtures: int = 3
    batch: int = 2
    correction: bool = False
    norm: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def draw(self, dtype: torch.dtype = torch.float64, parameters: torch.dtype | None = None, seed: int = 0) -> Inputs:
        """The tensors that the call takes."""
        generator = torch.Generator().manual_seed(seed)
        tokens = (self.grid[0] * self.grid[1] if self.grid else 7) + self.extra

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        parameters = parameters or dtype
        inputs = {
            "x": normal(self.batch, tokens, self.channels).to(dtype),
            "share": normal(self.mixtures, self.channels).to(parameters),
        }
        if self.correction:
            inputs["correction"] = normal(self.mixtures, self.batch, tokens, self.channels).to(dtype)
        if self.norm:
            inputs["norm_weight"] = (1 + normal(self.channels) / 2).to(parameters)
            inputs["norm_bias"] = normal(self.channels).to(parameters)
        return inputs

    def run(self, backend: str | None, **inputs: Tensor) -> Tensor:
        """The op on `inputs`."""
        if self.grid is None:
            return torch.stack(bi_shift_mix(**inputs, **self.options, backend=backend))
        return torch.stack(
            shift_mix(inputs.pop("x"), inputs.pop("share"), self.grid, **inputs, **self.options, backend=backend)
        )

    def function(self, backend: str | None, inputs: Inputs) -> Callable[..., Tensor]:
        """The op as a function of its tensors in the order of `inputs`."""
        return lambda *tensors: self.run(backend, **dict(zip(inputs, tensors, strict=True)))


FULL = Case(extra=2, correction=True, norm=True)
CASES = {
    "plain": Case(),
    "full": FULL,
    "norm": Case(norm=True),
    "correction": Case(correction=True, mixtures=5),
    "class_tokens": Case(extra=3, mixtures=1),
    "three_heads": Case(channels=24, mixtures=2, options={"num_heads": 3}, norm=True, extra=1),
    "uneven_heads": Case(channels=21, options={"num_heads": 3, "gamma": 0.2}, correction=True),
    "share_0.2": Case(channels=13, norm=True, options={"gamma": 0.2}),
    "share_0": Case(extra=1, norm=True, correction=True, options={"gamma": 0.0}),
    "shift_0": Case(extra=1, norm=True, correction=True, options={"shift": 0}),
    "shift_2": Case(extra=1, norm=True, correction=True, options={"shift": 2}),
    "shift_beyond_grid": Case(grid=(3, 9), extra=1, norm=True, options={"shift": 5}),
    "one_token": Case(grid=(1, 1), norm=True, correction=True),
    "one_row": Case(grid=(1, 7), norm=True),
    "one_column": Case(grid=(5, 1), correction=True, batch=1),
    "one_channel": Case(channels=1, norm=True),
    "aligned": Case(channels=64, norm=True, extra=1),
    "wide": Case(grid=(2, 3), channels=200, norm=True, correction=True, mixtures=2),
    "text": Case(grid=None, correction=True, mixtures=5),
    "text_heads": Case(grid=None, channels=30, options={"num_heads": 3}),
}


def _runs() -> list[tuple[str, str]]:
    found = []
    for backend in available_backends("shift_mix"):
        for device in DEVICES:
            try:
                select_backend("shift_mix", backend, torch.ones(1, 1, 64, device=device))
            except ValueError:
                continue
            found.append((backend, device))
    return found


RUNS = _runs()
runs = pytest.mark.parametrize(("backend", "device"), RUNS, ids=["-".join(run) for run in RUNS])
FAST_RUNS = [run for run in RUNS if run[0] != "naive"]
fast_runs = pytest.mark.parametrize(("backend", "device"), FAST_RUNS, ids=["-".join(run) for run in FAST_RUNS])


def place(inputs: Inputs, backend: str, device: str) -> Inputs:
    """`inputs` on the device, or a skip where the backend says that it does not take them."""
    placed = {name: tensor.to(device) for name, tensor in inputs.items()}
    try:
        select_backend("shift_mix", backend, placed["x"])
    except ValueError as refusal:
        pytest.skip(str(refusal))
    return placed


def gradient_of_output(case: Case, inputs: Inputs) -> Tensor:
    shape = (case.mixtures, *inputs["x"].shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(inputs["x"])


def computed(case: Case, backend: str | None, inputs: Inputs, grad: Tensor) -> dict[str, Tensor]:
    names = ["y", *inputs]
    return dict(zip(names, output_and_gradients(case.function(backend, inputs), [*inputs.values()], grad), strict=True))


def defined(case: Case, inputs: Inputs, grad: Tensor) -> dict[str, Tensor]:
    """Output and gradients of the definition, in float64 on the CPU."""
    return computed(case, "naive", {name: x.double().cpu() for name, x in inputs.items()}, grad.double().cpu())


def assert_all_agree(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float | None = None) -> None:
    for name, tensor in actual.items():
        assert_agrees(tensor, expected[name], name, tolerance)


HALVES = [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float16, torch.float32)]
TYPES = [
    pytest.param(CASES[name], dtype, parameters, id=f"{name}-{dtype}-{parameters}".replace("torch.", ""))
    for name in CASES
    for dtype, parameters in [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        *(HALVES if name in ("plain", "full", "uneven_heads", "text") else []),
    ]
]


@pytest.mark.parametrize(("case", "dtype", "parameters"), TYPES)
@runs
def test_agrees_with_the_definition(
    backend: str, device: str, case: Case, dtype: torch.dtype, parameters: torch.dtype
) -> None:
    inputs = place(case.draw(dtype, parameters), backend, device)
    grad = gradient_of_output(case, inputs)
    with poisoned_memory():
        actual = computed(case, backend, inputs, grad)
    assert {name: x.dtype for name, x in actual.items()} == {
        "y": dtype,
        **{name: x.dtype for name, x in inputs.items()},
    }
    assert actual["y"].is_contiguous()
    assert_all_agree(actual, defined(case, inputs, grad))


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_the_definition_is_shift_and_lerp(norm: bool, extra: int) -> None:
    case = Case(
        extra=extra, channels=18, correction=True, norm=norm, options={"num_heads": 2, "shift": 2, "gamma": 0.2}
    )
    x, share, correction, *parameters = inputs = [*case.draw().values()]
    z = torch.nn.functional.layer_norm(x, (18,), *parameters) if norm else x
    shifted = torch.cat([q_shift(z[:, :24], (4, 6), **case.options), z[:, 24:]], dim=1)
    expected = torch.stack([torch.lerp(z, shifted, one + two) for one, two in zip(share, correction, strict=True)])
    assert_agrees(case.function("naive", case.draw())(*inputs), expected, "y", tolerance=1e-14)


def test_the_definition_is_bi_shift_and_lerp() -> None:
    x, share = Case(grid=None).draw().values()
    expected = torch.stack([torch.lerp(x, bi_shift(x, num_heads=3), weight) for weight in share])
    assert_agrees(torch.stack(bi_shift_mix(x, share, num_heads=3, backend="naive")), expected, "y", tolerance=1e-14)


def hostile(kind: str, x: Tensor) -> Tensor:
    return {
        "large_mean": 1e3 + x,
        "constant": (1e3 * x[..., :1]).expand_as(x).contiguous(),
        "tiny": 1e-30 * x,
        "tiny_differences": 1 + 1e-5 * x,
        "large": 1e4 * x,
    }[kind]


@pytest.mark.parametrize("kind", ["large_mean", "constant", "tiny", "tiny_differences", "large"])
@runs
def test_the_norm_does_not_cancel(backend: str, device: str, kind: str) -> None:
    case = replace(FULL, channels=48)
    inputs = case.draw(torch.float32)
    inputs["x"] = hostile(kind, inputs["x"])
    inputs = place(inputs, backend, device)
    grad = gradient_of_output(case, inputs)
    assert_all_agree(computed(case, backend, inputs, grad), defined(case, inputs, grad))


@pytest.mark.parametrize("size", [1e-30, 1e30])
@runs
def test_any_size_of_values(backend: str, device: str, size: float) -> None:
    case = Case(correction=True)
    inputs = case.draw(torch.float32)
    inputs["x"] *= size
    inputs = place(inputs, backend, device)
    grad = gradient_of_output(case, inputs)
    assert_all_agree(computed(case, backend, inputs, grad), defined(case, inputs, grad))


def stored_transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def sliced_out_of_noise(tensor: Tensor) -> Tensor:
    """Same values at every second place, and at an offset, of a larger tensor of NaN."""
    larger = tensor.new_full([2 * size + 1 for size in tensor.shape], torch.nan)
    window = larger[tuple(slice(1, None, 2) for _ in tensor.shape)]
    window.copy_(tensor)
    return window


@pytest.mark.parametrize("layout", [stored_transposed, sliced_out_of_noise])
@runs
def test_any_memory_layout(backend: str, device: str, layout: Callable[[Tensor], Tensor]) -> None:
    inputs = place({name: layout(x) for name, x in FULL.draw(torch.float32).items()}, backend, device)
    grad = layout(gradient_of_output(FULL, inputs))
    assert_all_agree(computed(FULL, backend, inputs, grad), defined(FULL, inputs, grad))


@runs
def test_gradients_of_some_inputs(backend: str, device: str) -> None:
    case = replace(FULL, grid=(2, 3))
    inputs = place(case.draw(torch.float32), backend, device)
    grad = gradient_of_output(case, inputs)
    expected = computed(case, backend, inputs, grad)
    for chosen in inputs:
        leaves = {name: x.clone().requires_grad_(name == chosen) for name, x in inputs.items()}
        case.run(backend, **leaves).backward(grad)
        for name, leaf in leaves.items():
            assert (leaf.grad is not None) == (name == chosen)
        assert_agrees(leaves[chosen].grad, expected[chosen], chosen)


@runs
def test_gradients_repeat_to_the_bit_and_inputs_stay(backend: str, device: str) -> None:
    case = replace(FULL, grid=(5, 7), channels=70)
    inputs = place(case.draw(torch.float32), backend, device)
    copies = {name: x.clone() for name, x in inputs.items()}
    grad = gradient_of_output(case, inputs)
    first, second = (computed(case, backend, inputs, grad) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(inputs[name], copies[name]) for name in inputs)


@pytest.mark.skipif("triton" not in available_backends("shift_mix"), reason="Triton cannot run here")
@pytest.mark.parametrize("part", [5, 20, 100])
def test_triton_programs_of_several_steps(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of the backward pass whose last step is cut short by their end, or by that of the batch."""
    host = pytest.importorskip("vrwkv.ops.shift_mix.triton")
    monkeypatch.setattr(host, "tokens_per_program", lambda tokens: part)
    device = next(device for backend, device in reversed(RUNS) if backend == "triton")
    inputs = place(FULL.draw(torch.float32), "triton", device)
    grad = gradient_of_output(FULL, inputs)
    with poisoned_memory():
        actual = computed(FULL, "triton", inputs, grad)
    assert_all_agree(actual, defined(FULL, inputs, grad))


@pytest.mark.skipif("triton" not in available_backends("shift_mix"), reason="Triton cannot run here")
def test_triton_blocks() -> None:
    host = pytest.importorskip("vrwkv.ops.shift_mix.triton")
    assert [host.channel_block(channels) for channels in (1, 12, 100, 192, 384, 768, 1024)] == [
        1, 16, 64, 64, 128, 256, 256,
    ]  # fmt: skip
    for tokens in (1, 196, 4096, 5000, 16384, 2**20):
        part = host.tokens_per_program(tokens)
        assert 8 <= part <= 64
        assert -(-tokens // part) >= min(512, tokens // 8)


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name: str) -> None:
    case = replace(CASES[name], batch=1, channels=min(CASES[name].channels, 24))
    inputs = case.draw()
    leaves = [tensor.requires_grad_() for tensor in inputs.values()]
    assert torch.autograd.gradcheck(case.function("torch", inputs), leaves, fast_mode=True)


@runs
def test_autocast_leaves_the_inside_alone(backend: str, device: str) -> None:
    inputs = place(FULL.draw(torch.float32), backend, device)
    grad = gradient_of_output(FULL, inputs)
    with torch.autocast(device, torch.bfloat16):
        actual = computed(FULL, backend, inputs, grad)
    assert actual["y"].dtype == torch.float32
    assert_all_agree(actual, defined(FULL, inputs, grad))


@runs
def test_inference_mode(backend: str, device: str) -> None:
    inputs = place(FULL.draw(torch.float32), backend, device)
    expected = FULL.run(backend, **inputs)
    with torch.inference_mode():
        y = FULL.run(backend, **inputs)
        assert torch.equal(FULL.run(backend, **{name: x.clone() for name, x in inputs.items()}), expected)
    assert y.is_inference()
    assert torch.equal(y, expected)


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
        if self.case.grid is None:
            return torch.stack(bi_shift_mix(x, **others))
        grid = (x.shape[1] // 6, 6)
        return torch.stack(shift_mix(x, others["share"], grid, **{k: v for k, v in others.items() if k != "share"}))


@pytest.mark.parametrize("name", ["plain", "full", "text"])
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


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


Error = tuple[dict[str, Any], str]

COMMON_ERRORS: list[Error] = [
    ({"x": [1.0]}, "^x must be a tensor, not list"),
    ({"x": ones(7, 8)}, "^x must have shape"),
    ({"x": ones(1, 7, 8, dtype=torch.int64)}, "^x must be float64"),
    ({"share": None}, "^share must be a tensor, not NoneType"),
    ({"share": ones(8)}, r"^share must have shape \(M, C\)"),
    ({"share": ones(0, 8)}, r"^share must have shape \(M, C\)"),
    ({"share": ones(2, 7)}, r"^share must have shape \(M, C\)"),
    ({"share": ones(2, 8, dtype=torch.float16)}, "^share must be float32 or the dtype of x, torch.float32, not"),
    ({"share": ones(2, 8).to("meta")}, "^share is on meta but x is on cpu"),
    ({"correction": ones(2, 1, 7, 7)}, r"^correction must have shape \(M, B, T, C\)"),
    ({"correction": ones(1, 1, 7, 8)}, r"^correction must have shape \(M, B, T, C\)"),
    ({"correction": ones(2, 1, 7, 8, dtype=torch.float16)}, "^correction is torch.float16 but x is torch.float32"),
    ({"correction": ones(2, 1, 7, 8, dtype=torch.int32)}, "^correction must be float64"),
    ({"correction": ones(2, 1, 7, 8).to("meta")}, "^correction is on meta but x is on cpu"),
    ({"backend": "cuda"}, "^backend 'cuda' does not exist for shift_mix"),
]
IMAGE_ERRORS: list[Error] = [
    ({"x": ones(1, 5, 8)}, "^x has 5 tokens, but grid 2×3 has 6"),
    ({"norm_weight": ones(8)}, "^norm_bias is missing"),
    ({"norm_bias": ones(8)}, "^norm_weight is missing"),
    ({"norm_weight": ones(7), "norm_bias": ones(8)}, "^norm_weight must have shape"),
    ({"norm_weight": ones(8), "norm_bias": ones(1, 8)}, "^norm_bias must have shape"),
    ({"norm_weight": 1.0, "norm_bias": ones(8)}, "^norm_weight must be a tensor"),
    ({"norm_weight": ones(8), "norm_bias": ones(8, dtype=torch.float64)}, "^norm_bias must be float32 or"),
    ({"norm_eps": 0.0}, "^norm_eps must be above 0, not 0.0"),
    ({"grid": (2, 4)}, "^x has 7 tokens, but grid 2×4 has 8"),
    ({"grid": (-2, -3)}, "^grid must be"),
    ({"grid": (6,)}, "^grid must be"),
    ({"grid": 6}, "^grid must be"),
    ({"num_heads": 3}, "^num_heads must divide the 8 channels of x, not 3"),
    ({"num_heads": 0}, "^num_heads must divide"),
    ({"shift": -1}, "^shift must be at least 0, not -1"),
    ({"gamma": 0.3}, "^gamma must be between 0 and 1/4, not 0.3"),
]
TEXT_ERRORS: list[Error] = [
    ({"num_heads": 3}, "^x has 8 channels, which num_heads=3 heads of even size cannot share"),
    ({"num_heads": 0}, "^x has 8 channels, which num_heads=0 heads"),
]


@pytest.mark.parametrize(("arguments", "message"), COMMON_ERRORS + IMAGE_ERRORS)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        shift_mix(**{"x": ones(1, 7, 8), "share": ones(2, 8), "grid": (2, 3), **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("arguments", "message"), COMMON_ERRORS + TEXT_ERRORS)
def test_wrong_arguments_for_text(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bi_shift_mix(**{"x": ones(1, 7, 8), "share": ones(2, 8), **arguments})
