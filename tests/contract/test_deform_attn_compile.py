"""deform_attn under torch.compile, torch.export and onnxruntime."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from deform_attn_cases import draw
from torch import Tensor, nn

from vrwkv.ops import deform_attn


def deform_attn_of_maps(locations: Tensor, weights: Tensor, *maps: Tensor) -> Tensor:
    """As a model calls the op: the sizes of the levels are those of its maps (B, heads, head_dim, H, W)."""
    values = torch.cat([level_map.flatten(3).permute(0, 3, 1, 2) for level_map in maps], 1)
    shapes = [(level_map.shape[3], level_map.shape[4]) for level_map in maps]
    return torch.tanh(deform_attn(values * 2, shapes, locations, weights))


def draw_maps(height: int, width: int, queries: int = 6, levels: int = 2) -> tuple[Tensor, ...]:
    shapes = [(2 * height, 2 * width), (height, width)][-levels:]
    values, locations, weights = draw(shapes, queries=queries, dtype=torch.float32)
    cells = values.permute(0, 2, 3, 1).split([rows * columns for rows, columns in shapes], 3)
    maps = [level.unflatten(3, shape).contiguous() for level, shape in zip(cells, shapes, strict=True)]
    return (locations, weights, *maps)


def gradients_of_maps(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]


def test_compiles_once_for_maps_of_any_size() -> None:
    torch.compiler.reset()
    compiled = torch.compile(deform_attn_of_maps, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in ((7, 11, 13), (9, 10, 17)):  # none of them alike, because equal ones share a symbol
            inputs = draw_maps(*size, levels=1)
            actual = gradients_of_maps(compiled, inputs)
            for one, other in zip(actual, gradients_of_maps(deform_attn_of_maps, inputs), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * other.abs().max().item())


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="Inductor compiles C++ on the CPU")
def test_compiled_by_inductor() -> None:
    torch.compiler.reset()
    inputs = draw_maps(3, 5, levels=1)
    with torch.no_grad():
        compiled = torch.compile(deform_attn_of_maps, fullgraph=True)(*inputs)
        torch.testing.assert_close(compiled, deform_attn_of_maps(*inputs), rtol=1e-5, atol=1e-5)


class OfMaps(nn.Module):
    """The op as a module, for exporters."""

    def forward(self, locations: Tensor, weights: Tensor, large: Tensor, small: Tensor) -> Tensor:
        return deform_attn_of_maps(locations, weights, large, small)


ANY = torch.export.Dim.DYNAMIC
ANY_SIZES = ({0: ANY, 1: ANY}, {0: ANY, 1: ANY}, {0: ANY, 3: ANY, 4: ANY}, {0: ANY, 3: ANY, 4: ANY})


@pytest.mark.parametrize("symbolic", [False, True])
def test_exported_program_holds_standard_operators(symbolic: bool) -> None:
    sizes = ANY_SIZES if symbolic else None
    program = torch.export.export(OfMaps(), draw_maps(3, 4), dynamic_shapes=sizes)
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert node.target.namespace in ("aten", "prim", "prims"), node.target
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for size in ((3, 4), (5, 2, 11), (7, 8, 3)) if symbolic else ((3, 4),):
        inputs = draw_maps(*size)
        torch.testing.assert_close(loaded(*inputs), deform_attn_of_maps(*inputs), rtol=1e-5, atol=1e-5)


def test_onnxruntime_agrees(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(
        OfMaps().eval(), draw_maps(3, 4), dynamo=True, opset_version=18, verbose=False, dynamic_shapes=ANY_SIZES
    )
    assert program is not None
    assert {node.domain for node in program.model.graph} == {""}
    assert "Loop" not in {node.op_type for node in program.model.graph}
    program.save(tmp_path / "op.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "op.onnx", providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    for size in ((3, 4), (5, 2, 11), (1, 1, 1)):
        inputs = draw_maps(*size)
        (y,) = session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))
        torch.testing.assert_close(torch.from_numpy(y), deform_attn_of_maps(*inputs), rtol=1e-5, atol=1e-5)
