"""Every kind of file: equal to eager at sizes it was not traced with, in a process that has no vrwkv."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from exported_towers import moved, run_without_vrwkv, skip_without_compiler, small_image_tower
from torch.export import ExportedProgram
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vrwkv.errors import InputError
from vrwkv.export import Tower, image_tower
from vrwkv.export.aot_inductor import check_compiler, export_for_packages, load_package, write_package
from vrwkv.export.onnx_file import load_onnx, write_onnx
from vrwkv.export.parity import compare_with_eager
from vrwkv.export.torch_program import export_program, foreign_operators, load_program, save_program
from vrwkv.models import registry

# VRWKV-L has what the smaller ones lack: a norm after Bi-WKV and a head of three layers.
MODELS = {
    "vrwkv_large_patch16_384": {"head_hidden_dim": 40, "img_size": 48},
    "vrwkv6_small_patch16_224": {"num_heads": 3},
}


@pytest.fixture(scope="module", params=MODELS)
def traced(request: pytest.FixtureRequest) -> tuple[Tower, ExportedProgram]:
    tower = small_image_tower(request.param, **MODELS[request.param])
    return tower, export_program(tower)


def inputs_of(tower: Tower, shape: tuple[int, ...]) -> torch.Tensor:
    return tower.draw(shape, torch.Generator().manual_seed(3))


def test_onnx_file(traced: tuple[Tower, ExportedProgram], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    tower, program = traced
    path = tmp_path / "model.onnx"
    write_onnx(program, tower, path)
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
    assert [entry.name for entry in model.graph.input] == ["images"]
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    assert all(sizes[axis].dim_param for axis in (0, 2, 3)), sizes
    for difference in compare_with_eager(tower, load_onnx(path)):
        assert difference.relative <= 1e-5, difference
    images = inputs_of(tower, (2, 3, 200, 50))
    with torch.no_grad():
        expected = tower.module(images)
    assert (run_without_vrwkv(path, images) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_torch_export_file(traced: tuple[Tower, ExportedProgram], tmp_path: Path) -> None:
    tower, program = traced
    assert foreign_operators(program) == []
    path = tmp_path / "model.pt2"
    save_program(program, path)
    for difference in compare_with_eager(tower, load_program(path)):
        assert difference.relative <= 1e-5, difference
    images = inputs_of(tower, (1, 3, 50, 200))
    with torch.no_grad():
        expected = tower.module(images)
    assert (run_without_vrwkv(path, images) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.whole
@pytest.mark.parametrize("name", registry.__all__)
def test_every_registered_model_as_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    tower = small_image_tower(name)
    path = tmp_path / "model.onnx"
    write_onnx(export_program(tower), tower, path)
    for difference in compare_with_eager(tower, load_onnx(path)):
        assert difference.relative <= 1e-5, difference


class LargestTensor(TorchDispatchMode):
    """Notes how many elements the largest result of any operator has."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.count = max(self.count, tensor.numel())
        return result


def test_4096_tokens_without_a_matrix_of_all_pairs(traced: tuple[Tower, ExportedProgram]) -> None:
    tower, program = traced
    function, images = program.module(), inputs_of(tower, (1, 3, 1024, 1024))
    with torch.no_grad(), LargestTensor() as seen:
        function(images)
    assert 4096 * 4 * 48 <= seen.count < 4096 * 4096 / 4


class NotedShapes(torch.fx.Interpreter):
    """Runs a graph and counts the tensors that have the shapes which the exporter noted for symbolic sizes."""

    compared = 0

    def run(self, *inputs: torch.Tensor) -> Any:
        noted = next(node for node in self.module.graph.nodes if node.op == "placeholder").meta["val"]
        self.sizes = {
            symbol.node.expr: size
            for symbol, size in zip(noted.shape, inputs[0].shape, strict=True)
            if isinstance(symbol, torch.SymInt)
        }
        return super().run(*inputs)

    def run_node(self, node: torch.fx.Node) -> Any:
        result, noted = super().run_node(node), node.meta.get("val")
        if isinstance(result, torch.Tensor) and isinstance(noted, torch.Tensor):
            shape = [size if isinstance(size, int) else int(size.node.expr.subs(self.sizes)) for size in noted.shape]
            assert list(result.shape) == shape, node
            self.compared += 1
        return result


@pytest.mark.parametrize("name", MODELS)
def test_noted_shapes_of_packages_hold_for_any_number_of_chunks(name: str) -> None:
    """Inductor builds on them: with wrong ones, packages do not run."""
    tower = small_image_tower(name, **MODELS[name])
    noted = NotedShapes(export_for_packages(tower).module())
    for shape in ((1, 3, 17, 17), (3, 3, 300, 350)):
        noted.run(inputs_of(tower, shape))
    assert noted.compared > 100


@pytest.mark.whole
@pytest.mark.parametrize("name", registry.__all__)
def test_every_registered_model_as_aot_inductor_package(name: str, tmp_path: Path) -> None:
    skip_without_compiler()
    tower = image_tower(moved(timm.create_model(name, depth=2)))
    path = tmp_path / "aoti.pt2"
    write_package(export_for_packages(tower), path)
    differences = compare_with_eager(tower, load_package(path))
    print(name, [f"{difference.relative:.1e}" for difference in differences])
    for difference in differences:
        assert difference.relative <= 1e-5, difference
    images = inputs_of(tower, (1, 3, 300, 350))
    with torch.no_grad():
        expected = tower.module(images)
    assert (run_without_vrwkv(path, images) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_no_compiler_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def missing() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(InputError, match="compiler and found none"):
        check_compiler()
