"""What files say of their input: the same in every format, and enough to prepare an image as evaluation does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_towers import documented_example, draw_picture, moved
from PIL import Image
from torch.export import ExportedProgram

import vrwkv
from vrwkv.commands import export
from vrwkv.data.augmentation import evaluation_preprocess
from vrwkv.export import Tower
from vrwkv.export.onnx_file import write_onnx
from vrwkv.export.quantize import quantize_linear_layers
from vrwkv.export.torch_program import METADATA_FILE, export_program, save_program
from vrwkv.export.write import Exported
from vrwkv.objectives.classifier import create_classifier, load_classifier, save_metadata
from vrwkv.objectives.classifier_config import ClassifierModelConfig
from vrwkv.training.weights import save_weights

NAME = "vrwkv_tiny_patch16_224"
CLASSES = ["Käfer", "猫", 'a "quoted" name']


def run_folder(folder: Path, **config: Any) -> Path:
    """A run that has just ended, as far as its weights go."""
    config = {"architecture": NAME, "depth": 1, "embed_dim": 48, "image_size": 48, **config}
    classifier = create_classifier(ClassifierModelConfig(**config), len(CLASSES), CLASSES)
    save_weights(moved(classifier.model), folder / "model.safetensors", save_metadata(classifier))
    return folder


def tower_of(folder: Path, *arguments: object) -> Tower:
    """What the command exports for these arguments."""
    towers = []

    def write_checked(tower: Tower, *arguments: Any, **options: Any) -> Exported:
        towers.append(tower)
        return Exported([], {}, 0)

    file = ["--format", "torch_export", "--output", str(folder / "model.pt2")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(export, "write_checked", write_checked)
        export.main([*map(str, arguments), *file])
    return towers[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def traced(run: Path) -> tuple[Tower, ExportedProgram]:
    tower = tower_of(run, "--checkpoint", run)
    return tower, export_program(tower)


@pytest.fixture(scope="module")
def onnx_file(traced: tuple[Tower, ExportedProgram], tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    tower, program = traced
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    write_onnx(program, tower, path)
    return path


def said_by_onnx(path: Path) -> dict[str, str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map


def test_a_run_says_what_it_was_trained_with(traced: tuple[Tower, ExportedProgram]) -> None:
    metadata = dict(traced[0].metadata)
    assert {key: metadata.pop(key) for key in ("architecture", "interpolation", "color_order", "vrwkv_version")} == {
        "architecture": NAME,
        "interpolation": "bicubic",
        "color_order": "RGB",
        "vrwkv_version": vrwkv.__version__,
    }
    assert {key: json.loads(text) for key, text in metadata.items()} == {
        "input_size": [3, 48, 48],
        "crop_pct": 0.875,
        "value_range": [0, 1],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "class_names": CLASSES,
    }


def test_onnx_files_say_it_float_and_int8(
    traced: tuple[Tower, ExportedProgram], onnx_file: Path, tmp_path: Path
) -> None:
    tower, _ = traced
    assert said_by_onnx(onnx_file) == tower.metadata
    quantize_linear_layers(onnx_file, tower.module, tmp_path / "int8.onnx")
    said = said_by_onnx(tmp_path / "int8.onnx")
    assert said.items() >= tower.metadata.items()
    assert all(key.startswith("onnx.") for key in said.keys() - tower.metadata.keys()), said


def test_programs_say_it(traced: tuple[Tower, ExportedProgram], tmp_path: Path) -> None:
    tower, program = traced
    save_program(program, tmp_path / "tiny.pt2", tower.metadata)
    extra = {METADATA_FILE: ""}
    torch.export.load(tmp_path / "tiny.pt2", extra_files=extra)
    assert json.loads(extra[METADATA_FILE]) == tower.metadata


# Wide, tall and smaller than the model's 48 pixels; the last one needs no resizing, its shorter side being 54.
@pytest.mark.parametrize("size", [(200, 131), (61, 150), (33, 30), (54, 71)])
def test_documented_example(
    size: tuple[int, int], run: Path, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.onnx").symlink_to(onnx_file)
    draw_picture(*size).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in documented_example():
        exec(block, names)
    classifier = load_classifier(run)
    images = evaluation_preprocess(classifier.image)(Image.open("photo.jpg").convert("RGB"))[None]
    with torch.no_grad():
        logits = classifier.model(images)
    np.testing.assert_allclose(names["images"], images.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(names["logits"], logits.numpy(), rtol=0, atol=1e-5 * logits.abs().max().item())


def test_documented_example_prints_the_class(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.onnx").symlink_to(onnx_file)
    draw_picture(80, 60).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec("\n".join(documented_example()), {})
    assert capsys.readouterr().out.strip() in CLASSES


def test_untrained_models_say_what_they_are_registered_with(tmp_path: Path) -> None:
    large = tower_of(tmp_path, "--model", "vrwkv_large_patch16_384", "--model-kwargs", "depth=1", "embed_dim=32")
    assert (large.metadata["input_size"], large.metadata["crop_pct"]) == ("[3, 384, 384]", "1.0")
    assert "class_names" not in large.metadata
    small = tower_of(tmp_path, "--model", NAME, "--model-kwargs", "depth=1", "embed_dim=32", "img_size=64")
    assert small.metadata["input_size"] == "[3, 64, 64]"


@pytest.mark.parametrize("shape", ["in_chans=1", "img_size=(32, 64)"])
def test_nothing_is_said_of_images_that_evaluation_does_not_know(shape: str, tmp_path: Path) -> None:
    tower = tower_of(tmp_path, "--model", NAME, "--model-kwargs", "depth=1", "embed_dim=32", shape)
    assert tower.metadata == {"architecture": NAME, "vrwkv_version": vrwkv.__version__}


def test_models_trained_on_images_of_their_own_shapes_say_how_large(tmp_path: Path) -> None:
    tower = tower_of(tmp_path, "--checkpoint", run_folder(tmp_path, max_tokens=30, patch_size=8))
    assert (tower.metadata["max_tokens"], tower.metadata["patch_size"]) == ("30", "[8, 8]")
