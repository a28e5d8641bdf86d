"""The text tower as a file, and the towers that the command finds for image-text models."""

import argparse
from pathlib import Path

import pytest
import torch
from exported_towers import moved, run_without_vrwkv, skip_without_compiler

from vrwkv.errors import InputError
from vrwkv.export.aot_inductor import export_for_packages, load_package, write_package
from vrwkv.export.onnx_file import load_onnx, write_onnx
from vrwkv.export.parity import compare_with_eager
from vrwkv.export.torch_program import export_program

pytest.importorskip("open_clip")

from rwkv_clip.commands.export import clip_tower, text_tower
from rwkv_clip.text import TextTower


def test_onnx_file_of_a_text_tower(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    tower = text_tower(moved(TextTower(embed_dim=64, depth=1, num_heads=2, vocab_size=100)))
    path = tmp_path / "text.onnx"
    write_onnx(export_program(tower), tower, path)
    for difference in compare_with_eager(tower, load_onnx(path)):
        assert difference.relative <= 1e-5, difference
    text = tower.draw((4, 77), torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = tower.module(text)
    assert (run_without_vrwkv(path, text) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.whole
def test_aot_inductor_package_of_a_text_tower(tmp_path: Path) -> None:
    skip_without_compiler()
    tower = text_tower(moved(TextTower(depth=2)))
    path = tmp_path / "aoti.pt2"
    write_package(export_for_packages(tower), path)
    differences = compare_with_eager(tower, load_package(path))
    print("text", [f"{difference.relative:.1e}" for difference in differences])
    for difference in differences:
        assert difference.relative <= 1e-5, difference
    text = tower.draw((4, 77), torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = tower.module(text)
    assert (run_without_vrwkv(path, text) - expected).abs().max() <= 1e-5 * expected.abs().max()


def request(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"model": None, "tower": "image", "checkpoint": None, "model_kwargs": [], **given})


def test_plain_image_models_are_left_to_vision() -> None:
    assert clip_tower(request(model="vrwkv_tiny_patch16_224")) is None


def test_unknown_image_text_model() -> None:
    with pytest.raises(InputError, match="nearest are RWKV-CLIP-B-32"):
        clip_tower(request(model="RWKV-CLIP-B32", tower="text"))
