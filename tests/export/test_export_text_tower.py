"""The text tower as a file, and the towers that the command finds for image-text models."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_towers import documented_example, draw_picture, moved, run_without_vrwkv, skip_without_compiler

import vrwkv
from vrwkv.errors import InputError
from vrwkv.export.aot_inductor import export_for_packages, load_package, write_package
from vrwkv.export.onnx_file import load_onnx, write_onnx
from vrwkv.export.parity import compare_with_eager
from vrwkv.export.torch_program import export_program
from vrwkv.training.weights import save_weights

pytest.importorskip("open_clip")

import open_clip
from open_clip.transform import image_transform_v2

from rwkv_clip.commands import export
from rwkv_clip.commands.export import clip_tower, text_tower
from rwkv_clip.model import (
    ImageTowerConfig,
    ModelConfig,
    TextTowerConfig,
    create_model,
    load,
    preprocess_config,
    save_metadata,
)
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
    write_package(export_for_packages(tower), path, tower.metadata)
    package: Any = load_package(path)
    assert package.get_metadata().items() >= tower.metadata.items()
    differences = compare_with_eager(tower, package)
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


def without_weights(name: str) -> Any:
    with torch.device("meta"):
        return create_model(open_clip.get_model_config(name))


@pytest.mark.parametrize("size", [(500, 331), (150, 201)])
def test_image_towers_say_how_their_images_are_prepared(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = without_weights("RWKV-CLIP-B-32")
    preprocess = image_transform_v2(preprocess_config(model), is_train=False)
    monkeypatch.setattr(export, "load", lambda path: (model, preprocess, None))
    metadata = clip_tower(request(model="RWKV-CLIP-B-32", checkpoint="model_31.pt")).metadata
    assert metadata["architecture"] == "RWKV-CLIP-B-32"
    names: dict[str, Any] = {}
    exec(documented_example()[0], names)
    picture = draw_picture(*size)
    np.testing.assert_allclose(names["prepare"](picture, metadata)[0], preprocess(picture).numpy(), rtol=0, atol=1e-6)


def test_text_towers_say_what_tokens_they_take(tmp_path: Path) -> None:
    image = ImageTowerConfig("vrwkv_tiny_patch16_224", 48, embed_dim=32, depth=1)
    config = ModelConfig(embed_dim=32, image=image, text=TextTowerConfig(depth=1, num_heads=2, context_length=16))
    save_weights(create_model(config), tmp_path / "model.safetensors", save_metadata(config))
    metadata = clip_tower(request(checkpoint=tmp_path, tower="text")).metadata
    assert metadata == {
        "architecture": "RWKV-CLIP",
        "context_length": "16",
        "vocab_size": "49408",
        "tokenizer": "open_clip.SimpleTokenizer",
        "vrwkv_version": vrwkv.__version__,
    }
    assert isinstance(load(tmp_path)[2], open_clip.SimpleTokenizer)


def test_a_published_file_is_known_by_its_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "load", lambda path: (without_weights("RWKV-CLIP-B-16"), None, None))
    metadata = clip_tower(request(checkpoint="model_31.pt", tower="text")).metadata
    assert metadata["architecture"] == "RWKV-CLIP-B-16"
    assert json.loads(metadata["context_length"]) == 77
