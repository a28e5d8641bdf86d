"""Exported bi_wkv and bi_wkv6: standard operators only, any number of tokens, no vrwkv needed to run them."""

import operator

import pytest
import torch
from torch import Tensor, nn
from wkv_ops_under_test import WKV_OPS, WkvOp, assert_agrees

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
