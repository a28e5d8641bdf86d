"""Exported bi_wkv and bi_wkv6: standard operators only, any number of tokens, no vrwkv needed to run them."""

import operator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from wkv_ops_under_test import WKV_OPS, WkvOp, assert_agrees

from vrwkv.ops import bi_wkv
from vrwkv.ops.bi_wkv.exported import bi_wkv_exported

STANDARD_NAMESPACES = {"aten", "prim", "prims", "sym_size"}


class Mixer(nn.Module):
    """The op with its parameters inside, as a layer holds them."""

    def __init__(self, op: WkvOp, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.op = op
        for name, tensor in zip(op.arguments, op.draw(1, dtype=dtype), strict=True):
            if name not in op.per_token:
                self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, *tokens: Tensor) -> Tensor:
        given = dict(zip(self.op.per_token, tokens, strict=True))
        arguments = [given[name] if name in given else self.get_parameter(name) for name in self.op.arguments]
        return torch.tanh(self.op.function(*arguments))


def tokens_of(op: WkvOp, count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    inputs = zip(op.arguments, op.draw(count, batch=1, dtype=dtype), strict=True)
    return tuple(tensor for name, tensor in inputs if name in op.per_token)


def exported(op: WkvOp) -> torch.export.ExportedProgram:
    tokens = tokens_of(op, 40)
    dynamic = {1: torch.export.Dim.DYNAMIC}
    return torch.export.export(Mixer(op), tokens, dynamic_shapes=(tuple(dynamic for _ in tokens),))


@pytest.fixture(scope="module", params=WKV_OPS, ids=lambda op: op.name)
def program(request: pytest.FixtureRequest) -> tuple[WkvOp, torch.export.ExportedProgram]:
    return request.param, exported(request.param)


def test_only_standard_operators(program: tuple[WkvOp, torch.export.ExportedProgram]) -> None:
    for module in program[1].graph_module.modules():
        assert isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes:
            if node.op != "call_function":
                continue
            if isinstance(node.target, torch._ops.OpOverload):
                assert node.target.namespace in STANDARD_NAMESPACES, node.target
            else:  # arithmetic on the symbolic number of tokens
                assert node.target.__module__ in (operator.__name__, "_operator", "math", "torch"), node.target


@pytest.mark.parametrize("tokens", [2, 5, 17, 256, 257, 300, 5000])
def test_equals_eager_for_any_number_of_tokens(
    program: tuple[WkvOp, torch.export.ExportedProgram], tokens: int
) -> None:
    op, graph = program
    inputs = tokens_of(op, tokens)
    with torch.no_grad():
        assert_agrees(graph.module()(*inputs), Mixer(op)(*inputs), "y", tolerance=5e-6)


def test_fixed_number_of_tokens() -> None:
    for op in WKV_OPS:
        inputs = tokens_of(op, 33)
        graph = torch.export.export(Mixer(op), inputs)
        with torch.no_grad():
            assert_agrees(graph.module()(*inputs), Mixer(op)(*inputs), "y", tolerance=5e-6)


@pytest.mark.parametrize("op", WKV_OPS, ids=lambda op: op.name)
def test_packing_is_refused_in_one_line(op: WkvOp) -> None:
    class Packed(nn.Module):
        def forward(self, inputs: list[Tensor], cu_seqlens: Tensor) -> Tensor:
            return op.function(*inputs, cu_seqlens=cu_seqlens)

    arguments = (op.draw(8, batch=1), torch.tensor([0, 3, 8], dtype=torch.int32))
    with pytest.raises(Exception, match="cu_seqlens cannot be exported"):
        torch.export.export(Packed(), arguments)


@pytest.mark.parametrize(
    ("tokens", "reach", "spread"),
    [
        *((tokens, 30.0, spread) for tokens in (1, 2, 3, 4, 17, 64, 196, 257, 1021) for spread in (3.0, 1e4)),
        *((tokens, 100.0, 1.0) for tokens in (64, 196, 257, 1021)),  # fewer tokens cannot hold such a decay
    ],
)
def test_exported_bi_wkv_equals_the_definition(tokens: int, reach: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(tokens)
    k, v = torch.randn(2, 2, 13, tokens, generator=generator).mT
    decay, bonus = torch.linspace(-reach, reach, 13), 5 * torch.randn(13, generator=generator)
    inputs = (decay, bonus, spread * k, v)
    expected = bi_wkv(*(tensor.double() for tensor in inputs), backend="naive")
    assert_agrees(bi_wkv_exported(*inputs), expected, "y", tolerance=2e-5)
    exact = bi_wkv_exported(*(tensor.double() for tensor in inputs))
    assert_agrees(exact, expected, "y in float64", tolerance=1e-6)


def test_exported_bi_wkv_of_many_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 1, 4096, 4, generator=generator)
    inputs = (torch.linspace(-30, 30, 4), torch.randn(4, generator=generator), 3 * k, v)
    expected = bi_wkv(*(tensor.double() for tensor in inputs), backend="naive")
    assert_agrees(bi_wkv_exported(*inputs), expected, "y", tolerance=2e-5)


@pytest.mark.parametrize("tokens", [1, 2, 3, 16, 50, 1021])
@pytest.mark.parametrize("reach", [1e3, 1e6])
def test_exported_bi_wkv_stays_within_the_values(tokens: int, reach: float) -> None:
    generator = torch.Generator().manual_seed(tokens)
    reaches = torch.linspace(-reach, reach, 9)
    decay, bonus = (tensor.flatten() for tensor in torch.meshgrid(reaches, reaches, indexing="ij"))
    k = 1e4 * (2 * torch.rand(2, tokens, 81, generator=generator) - 1)
    v = 1000 + torch.rand(2, tokens, 81, generator=generator)
    y = bi_wkv_exported(decay, bonus, k, v)
    rounding = 1e-6 * 1000
    assert (y >= v.amin(1, keepdim=True) - rounding).all()
    assert (y <= v.amax(1, keepdim=True) + rounding).all()


class BiWkvMixer(nn.Module):
    """bi_wkv with 8 channels of decays from -30 to 30."""

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.linspace(-30, 30, 8))
        self.bonus = nn.Parameter(torch.linspace(3, -3, 8))

    def forward(self, k: Tensor, v: Tensor) -> Tensor:
        return bi_wkv(self.decay, self.bonus, k, v)


@pytest.mark.parametrize("symbolic", [False, True])
def test_onnxruntime_agrees(symbolic: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    mixer, path = BiWkvMixer(), tmp_path / "mixer.onnx"
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        mixer,
        (torch.randn(2, 40, 8), torch.randn(2, 40, 8)),
        dynamo=True,
        opset_version=18,
        verbose=False,
        dynamic_shapes=(dynamic, dynamic) if symbolic else None,
    )
    assert program is not None
    assert {node.domain for node in program.model.graph} == {""}
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    for batch, tokens in ((1, 1), (3, 2), (1, 17), (5, 256), (2, 1021), (1, 65536)) if symbolic else ((2, 40),):
        generator = torch.Generator().manual_seed(tokens)
        k, v = torch.randn(2, batch, tokens, 8, generator=generator)
        (y,) = session.run(None, dict(zip(names, (k.numpy(), v.numpy()), strict=True)))
        with torch.no_grad():
            expected = bi_wkv(mixer.decay.double(), mixer.bonus.double(), k.double(), v.double(), backend="torch")
        assert_agrees(torch.from_numpy(y), expected, f"y of {tokens} tokens", tolerance=2e-5)
