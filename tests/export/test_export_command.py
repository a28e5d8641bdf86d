"""The export command: what it writes, prints and refuses."""

import re
import runpy
from pathlib import Path

import pytest
import timm
import torch
from exported_towers import SMALL, moved, small_image_tower
from safetensors.torch import save_file

import vrwkv.export.write as writing
from vrwkv.errors import InputError
from vrwkv.export.errors import ExportFailure
from vrwkv.export.parity import Difference, compare_with_eager
from vrwkv.export.progress import Stages

NAME = "vrwkv6_tiny_patch16_224"
TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "export.py"))


def run(*arguments: object) -> None:
    TOOL["console"]([str(argument) for argument in arguments])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert len(lines) == 1, lines
    return lines[0]


def test_int8_file_and_its_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "small.onnx"
    small = [f"{key}={value}" for key, value in {**SMALL, "img_size": 48, "num_heads": 3}.items()]
    run("--model", NAME, "--model-kwargs", *small, "--format", "onnx", "--quantize", "int8", "--output", path)
    printed, said = capsys.readouterr()
    begun = re.findall(r"^\[(\d)/4\] (.*) \.\.\.$", said, re.MULTILINE)
    assert [number for number, _ in begun] == ["1", "2", "3", "4"]
    assert begun[0][1] == f"tracing {NAME}"
    assert begun[3][1].startswith("quantising")
    assert re.findall(r"^\[(\d)/4\] took \d+\.\d s$", said, re.MULTILINE) == ["1", "2", "3", "4"]
    assert "1 × 3 × 48 × 48" in printed
    assert "tracing" not in printed  # results only
    assert "9 linear layers as int8" in printed  # r, k, v, gate, output; key, receptance, value; head
    cosine = re.search(r"int8 against float on 32 random inputs: cosine similarity ([\d.]+) \(least", printed)
    assert cosine is not None, printed
    assert 0.99 < float(cosine[1]) <= 1
    assert sum(tensor.data_type == onnx.TensorProto.UINT8 for tensor in onnx.load(path).graph.initializer) >= 9
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]


@pytest.fixture
def without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting takes no time, and gives a file that disagrees with the model."""
    monkeypatch.setattr(writing, "export_program", lambda tower: None)
    monkeypatch.setattr(writing, "save_program", lambda program, path, metadata: path.write_bytes(b"wrong"))
    monkeypatch.setattr(writing, "load_program", lambda path: lambda tensor: tensor)


def test_a_file_that_disagrees_is_not_left(
    tmp_path: Path, without_work: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pt2"
    with pytest.raises(SystemExit) as stopped:
        run("--model", NAME, "--model-kwargs", "depth=1", "embed_dim=48", "--format", "torch_export", "--output", path)
    assert stopped.value.code == 1
    assert re.search(r"^error: .* disagrees with eager", capsys.readouterr().err, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_a_stage_is_announced_before_it_begins_and_is_not_said_to_be_over_when_it_fails() -> None:
    said: list[str] = []
    stages = Stages(2, said.append)
    with stages.stage("tracing"):
        assert said == ["[1/2] tracing ..."]
    with pytest.raises(RuntimeError), stages.stage("writing"):
        raise RuntimeError
    assert re.fullmatch(r"\[1/2\] took \d\.\d s", said[1])
    assert said[2:] == ["[2/2] writing ..."]


def test_the_library_says_nothing_by_itself(
    tmp_path: Path, without_work: None, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportFailure):
        writing.write_checked(small_image_tower(NAME, num_heads=3), "torch_export", tmp_path / "model.pt2")
    printed, said = capfd.readouterr()
    assert printed == ""
    assert "[1/3]" not in said


def test_a_file_that_does_not_run_is_a_failure_in_one_line() -> None:
    def broken(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("bmm failed\nand much more")

    with pytest.raises(ExportFailure, match=r"does not run on inputs of shape \(1, 3, 224, 224\): bmm failed$"):
        compare_with_eager(small_image_tower(NAME, num_heads=3), broken)


def test_nan_is_a_difference() -> None:
    assert not Difference((1,), float("nan"), float("nan")).acceptable


def test_bad_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = ("--model", NAME, "--format", "torch_export")
    file = tmp_path / "model.pt2"
    line = refusal(capsys, "--model", "vrwkv_tinny", "--format", "torch_export", "--output", file)
    assert "nearest are vrwkv_tiny_patch16_224" in line
    assert "int8 exists for --format onnx only" in refusal(capsys, *good, "--quantize", "int8", "--output", file)
    assert "does not exist" in refusal(capsys, *good, "--output", tmp_path / "nowhere" / "model.pt2")
    assert "is a folder" in refusal(
        capsys, *good, "--output", (tmp_path / "folder.pt2", (tmp_path / "folder.pt2").mkdir())[0]
    )
    assert "must end in .pt2" in refusal(capsys, *good, "--output", tmp_path / "model.onnx")
    assert "must have the form" in refusal(capsys, *good, "--output", file, "--model-kwargs", "depth")
    assert "cannot be built" in refusal(capsys, *good, "--output", file, "--model-kwargs", "depht=2")
    assert "name an architecture" in refusal(capsys, "--format", "torch_export", "--output", file)


def test_bad_opsets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    for opset, said in ((17, "--opset 17 is too old"), (99, "--opset 99 does not exist")):
        options = ("--format", "onnx", "--opset", opset, "--output", tmp_path / "model.onnx")
        assert said in refusal(capsys, "--model", NAME, *options)


def test_bad_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = ("--model", NAME, "--format", "torch_export", "--output", tmp_path / "model.pt2", "--checkpoint")
    assert "does not exist" in refusal(capsys, *good, tmp_path / "none.pth")
    foreign = tmp_path / "foreign.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=48).state_dict(), foreign)
    assert "missing" in refusal(capsys, *good, foreign)
    truncated = tmp_path / "truncated.safetensors"
    save_file(moved(timm.create_model(NAME, depth=1, embed_dim=48)).state_dict(), truncated)
    truncated.write_bytes(truncated.read_bytes()[:5000])
    assert "not a readable safetensors file" in refusal(capsys, *good, truncated)
    assert not (tmp_path / "model.pt2").exists()


def test_text_without_its_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vrwkv.commands.export import main

    request = ["--tower", "text", "--format", "torch_export", "--output", str(tmp_path / "text.pt2")]
    with pytest.raises(InputError, match=r"pip install 'vrwkv\[clip\]'"):
        main(request)
