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
    printed = capsys.readouterr().out
    assert "1 × 3 × 48 × 48" in printed
    assert "9 linear layers as int8" in printed  # r, k, v, gate, output; key, receptance, value; head
    cosine = re.search(r"int8 against float on 32 random inputs: cosine similarity ([\d.]+) \(least", printed)
    assert cosine is not None, printed
    assert 0.99 < float(cosine[1]) <= 1
    assert sum(tensor.data_type == onnx.TensorProto.UINT8 for tensor in onnx.load(path).graph.initializer) >= 9
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]


def test_a_file_that_disagrees_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Program:
        pass

    monkeypatch.setattr(writing, "export_program", lambda tower: Program())
    monkeypatch.setattr(writing, "save_program", lambda program, path, metadata: path.write_bytes(b"wrong"))
    monkeypatch.setattr(writing, "load_program", lambda path: lambda tensor: tensor)
    path = tmp_path / "model.pt2"
    with pytest.raises(SystemExit) as stopped:
        run("--model", NAME, "--model-kwargs", "depth=1", "embed_dim=48", "--format", "torch_export", "--output", path)
    assert stopped.value.code == 1
    assert "disagrees with eager" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


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
