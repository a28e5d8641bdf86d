"""`rwkv_clip.load`: run folders, their weights, published files; and what is none of these."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import rwkv_clip
from rwkv_clip import ModelConfig
from rwkv_clip.model import ImageTowerConfig, TextTowerConfig, save_metadata
from vrwkv import InputError
from vrwkv.training.weights import save_weights

CONFIG = ModelConfig(
    embed_dim=32,
    image=ImageTowerConfig(image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, mlp_ratio=3.0),
    text=TextTowerConfig(depth=2, num_heads=2, mlp_ratio=3.0, context_length=16),
)


def trained(config: ModelConfig = CONFIG, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = rwkv_clip.create_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(size: int = 32) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, size, size)


@torch.no_grad()
def assert_alike(model: nn.Module, other: nn.Module, size: int = 32) -> None:
    ids = torch.randint(1, 40000, (2, 16))
    assert torch.equal(model.encode_image(images(size)), other.encode_image(images(size)))
    assert torch.equal(model.encode_text(ids), other.encode_text(ids))
    assert torch.equal(model.logit_scale, other.logit_scale)


@pytest.mark.parametrize("whole_folder", [True, False])
def test_run_folder(whole_folder: bool, tmp_path: Path) -> None:
    model = trained()
    save_weights(model, tmp_path / "model.safetensors", save_metadata(CONFIG))
    path = tmp_path if whole_folder else tmp_path / "model.safetensors"
    loaded, preprocess, tokenizer = rwkv_clip.load(str(path))
    assert not loaded.training
    assert loaded.output_dict
    assert_alike(loaded, model)
    picture = preprocess(Image.new("L", (50, 40), 122))
    assert picture.shape == (3, 32, 32)
    ids = tokenizer(["a photo of a dog.", "a " * 40])
    assert ids.shape == (2, 16)
    assert ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 1929, 269, 49407]
    assert ids[1, -1] == 49407


@pytest.mark.parametrize(
    "image",
    [
        ImageTowerConfig("vrwkv_tiny_patch16_224", 48, embed_dim=24, depth=2, projection=True),
        ImageTowerConfig("vrwkv6_tiny_patch16_224", 48, embed_dim=32, depth=1, num_heads=2, drop_path_rate=0.5),
        ImageTowerConfig("vit_tiny_patch16_224", 48, depth=1, projection=True),
    ],
    ids=lambda image: image.architecture,
)
def test_run_folder_of_another_architecture(image: ImageTowerConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, image=image, init_temperature=0.1, init_bias=-10.0)
    model = trained(config)
    save_weights(model, tmp_path / "model.safetensors", save_metadata(config))
    loaded, preprocess, _ = rwkv_clip.load(tmp_path)
    assert_alike(loaded, model, 48)
    assert loaded.logit_bias.item() == pytest.approx(model.logit_bias.item())
    assert preprocess(Image.new("RGB", (50, 40))).shape == (3, 48, 48)


@pytest.mark.parametrize(
    ("patch_size", "image_depth", "text_depth", "hidden"), [(8, 2, 1, 3.0), (16, 1, 3, 5.0), (4, 3, 2, 2.5)]
)
@pytest.mark.parametrize("kind", ["pt", "legacy pt", "safetensors"])
def test_published_files(
    kind: str, patch_size: int, image_depth: int, text_depth: int, hidden: float, tmp_path: Path
) -> None:
    model = trained(
        ModelConfig(
            64,
            ImageTowerConfig(
                image_size=48, patch_size=patch_size, embed_dim=64, depth=image_depth, num_heads=4, mlp_ratio=hidden
            ),
            TextTowerConfig(depth=text_depth, num_heads=2, mlp_ratio=3.5),
        )
    )
    published = {f"module._orig_mod.{name}": t.detach() for name, t in rwkv_clip.to_published(model).items()}
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model_31.pt")
    if kind == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in published.items()}, path)
    else:
        torch.save(published, path, _use_new_zipfile_serialization=kind == "pt")
    loaded, preprocess, tokenizer = rwkv_clip.load(path)
    assert_alike(loaded, model, 48)
    assert loaded.visual.image_size == (48, 48)
    assert preprocess(Image.new("RGB", (50, 60))).shape == (3, 48, 48)
    assert tokenizer(["x"]).shape == (1, 77)


def test_published_misfits_name_the_file(tmp_path: Path) -> None:
    published = rwkv_clip.to_published(trained())
    del published["text_model.ln_out.bias"], published["image_model.layers.1.att.gate.weight"]
    torch.save(published, tmp_path / "model_31.pt")
    with pytest.raises(InputError) as caught:
        rwkv_clip.load(tmp_path / "model_31.pt")
    assert str(caught.value).startswith(f"{tmp_path / 'model_31.pt'} does not fit this CustomTextCLIP: 2 missing: ")
    assert "text.norm.bias" in str(caught.value)


def test_weights_that_do_not_fit_what_the_file_says(tmp_path: Path) -> None:
    other = dataclasses.replace(CONFIG, text=TextTowerConfig(depth=3, num_heads=2, mlp_ratio=3.0, context_length=16))
    save_weights(trained(), tmp_path / "model.safetensors", save_metadata(other))
    with pytest.raises(InputError, match=r"does not fit this CustomTextCLIP: \d+ missing: text\.blocks\.2\."):
        rwkv_clip.load(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model\.safetensors; has its training finished"):
        rwkv_clip.load(tmp_path)


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        rwkv_clip.load(tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_of_something_else(suffix: str, tmp_path: Path) -> None:
    path, tensors = tmp_path / f"model{suffix}", {"fc.weight": torch.ones(3)}
    if suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    with pytest.raises(InputError, match="does not say which model it holds; give a run folder"):
        rwkv_clip.load(path)


@pytest.mark.parametrize("name", ["model.safetensors", "model_31.pt"])
def test_garbage(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(InputError) as caught:
        rwkv_clip.load(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
