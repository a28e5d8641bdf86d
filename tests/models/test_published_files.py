"""Published checkpoints in every wrapping they come in, read by `vrwkv.load_published`; and files to be refused."""

import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import vrwkv
from vrwkv import InputError, VisionRWKV

StateDict = dict[str, Tensor]

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


def small(seed: int = 0, **kwargs: object) -> VisionRWKV:
    options: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_classes": 3, **kwargs}
    torch.manual_seed(seed)
    model = VisionRWKV(**options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def large_style(seed: int = 0) -> VisionRWKV:
    return small(seed, head_hidden_dim=12, post_norm=True, key_norm=True, init_values=1e-5)


def classifier_keys(model: VisionRWKV) -> StateDict:
    """As mmcls saves them: the trunk below `backbone.`, the head beside it."""
    published = vrwkv.to_published(model)
    return {name if name.startswith("head.") else f"backbone.{name}": tensor for name, tensor in published.items()}


def assert_same(model: VisionRWKV, other: VisionRWKV) -> None:
    assert model.state_dict().keys() == other.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def yacs_config() -> Any:
    yacs = pytest.importorskip("yacs.config")
    config = yacs.CfgNode({"MODEL": {"TYPE": "vrwkv", "DEPTHS": [1, (2, 3)], "DROP": None}, "LR": 1e-3, "AMP": True})
    config.freeze()
    return config


WRAPPINGS: dict[str, Callable[[VisionRWKV], Any]] = {
    "bare": vrwkv.to_published,
    "backbone": classifier_keys,
    "module": lambda model: {f"module.{name}": tensor for name, tensor in classifier_keys(model).items()},
    "compiled": lambda model: {f"_orig_mod.{name}": tensor for name, tensor in classifier_keys(model).items()},
    "both": lambda model: {f"module._orig_mod.{name}": tensor for name, tensor in classifier_keys(model).items()},
    "both, turned": lambda model: {f"_orig_mod.module.{name}": t for name, t in vrwkv.to_published(model).items()},
    "mmcv": lambda model: {"meta": {"epoch": 300, "CLASSES": ["a"]}, "state_dict": classifier_keys(model)},
    "mmcv, ordered": lambda model: {"meta": {}, "state_dict": OrderedDict(classifier_keys(model)), "optimizer": {}},
    "model": lambda model: {"model": vrwkv.to_published(model), "epoch": 3, "scaler": {"scale": 1.0}},
    "no average": lambda model: {"state_dict": vrwkv.to_published(model), "model_ema": None},
    "empty average": lambda model: {"state_dict": vrwkv.to_published(model), "model_ema": {}},
    "parameters": lambda model: {n: nn.Parameter(t) for n, t in vrwkv.to_published(model).items()},
    "our names": lambda model: model.state_dict(),
    "our names, module": lambda model: {f"module.{name}": tensor for name, tensor in model.state_dict().items()},
}


@pytest.mark.parametrize("file", ["memory", "zip", "legacy"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("build", [small, large_style])
def test_wrappings(build: Callable[..., VisionRWKV], wrapping: str, file: str, tmp_path: Path) -> None:
    model, other, path = build(0), build(1), tmp_path / "checkpoint.pth"
    source = WRAPPINGS[wrapping](model)
    if file != "memory":
        torch.save(source, path, _use_new_zipfile_serialization=file == "zip")
        source = str(path) if file == "zip" else path
    vrwkv.load_published(other, source)
    assert_same(model, other)


def test_safetensors(tmp_path: Path) -> None:
    model, other = small(0), small(1)
    save_file({name: t.contiguous() for name, t in classifier_keys(model).items()}, tmp_path / "weights.safetensors")
    vrwkv.load_published(other, tmp_path / "weights.safetensors")
    assert_same(model, other)


@pytest.mark.parametrize("kept", ["model_ema", "state_dict_ema"])
def test_averaged_weights_are_preferred_on_demand(kept: str) -> None:
    raw, averaged, other = small(0), small(1), small(2)
    container = {"state_dict": classifier_keys(raw), kept: classifier_keys(averaged)}
    vrwkv.load_published(other, container)
    assert_same(averaged, other)
    vrwkv.load_published(other, container, use_ema=False)
    assert_same(raw, other)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("use_ema", [True, False])
def test_internimage_container_with_a_pickled_config(use_ema: bool, legacy: bool, tmp_path: Path) -> None:
    raw, averaged, other, path = large_style(0), large_style(1), large_style(2), tmp_path / "vrwkv_l.pth"
    container = {
        "state_dict": vrwkv.to_published(raw),
        "model_ema": vrwkv.to_published(averaged),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-5, "params": [0]}]},
        "lr_scheduler": {"base_values": [1e-5]},
        "epoch": 19,
        "max_accuracy": 86.0,
        "config": yacs_config(),
        "amp": {"scale": 65536.0},
    }
    torch.save(container, path, _use_new_zipfile_serialization=not legacy)
    vrwkv.load_published(other, path, use_ema=use_ema)
    assert_same(averaged if use_ema else raw, other)
    with pytest.raises(InputError, match=r"^this checkpoint holds a pickled yacs config; .*vrwkv\.load_published\S*"):
        torch.load(path, weights_only=True)


def test_a_pickled_config_needs_no_yacs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other, path = small(0), small(1), tmp_path / "checkpoint.pth"
    torch.save({"model": vrwkv.to_published(model), "config": yacs_config()}, path)
    for name in ("yacs", "yacs.config"):
        monkeypatch.setitem(sys.modules, name, None)
    vrwkv.load_published(other, path)
    assert_same(model, other)


def test_mixed_dtypes_are_cast_exactly() -> None:
    model, other = small(0).bfloat16().float(), small(1)
    published = vrwkv.to_published(model)
    mixed = {name: t.bfloat16() if index % 2 else t for index, (name, t) in enumerate(published.items())}
    vrwkv.load_published(other, mixed)
    assert_same(model, other)


@pytest.mark.parametrize("build", [small, large_style])
def test_round_trip(build: Callable[..., VisionRWKV]) -> None:
    published, other = vrwkv.to_published(build(0)), build(1)
    vrwkv.load_published(other, published)
    again = vrwkv.to_published(other)
    assert list(again) == list(published)
    for name, tensor in published.items():
        assert again[name].shape == tensor.shape
        assert torch.equal(again[name], tensor)


def test_flat_mixes_are_accepted_too() -> None:
    model, other = small(0), small(1)
    flat = vrwkv.to_published(model)
    flat |= {name: tensor.flatten() for name, tensor in flat.items() if "_mix_" in name}
    vrwkv.load_published(other, flat)
    assert_same(model, other)


@pytest.mark.parametrize("build", [small, large_style])
def test_a_backbone_takes_the_trunk_of_a_classifier(build: Callable[..., VisionRWKV]) -> None:
    model, backbone = build(0), build(1)
    backbone.reset_classifier(0)
    vrwkv.load_published(backbone, {"state_dict": classifier_keys(model)})
    x = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(backbone.forward_features(x), model.forward_features(x))
    trunk = {name: t for name, t in classifier_keys(model).items() if not name.startswith("head")}
    other = build(2)
    other.reset_classifier(0)
    vrwkv.load_published(other, trunk)
    assert_same(backbone, other)


def test_every_misfit_is_listed_and_nothing_is_loaded() -> None:
    model = small(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state_dict = classifier_keys(small(1))
    del state_dict["backbone.ln1.weight"], state_dict["head.fc.bias"]
    state_dict["backbone.layers.0.gamma1"] = torch.ones(16)
    state_dict["backbone.pos_embed"] = torch.zeros(1, 9, 16)
    state_dict["backbone.layers.1.att.key.weight"] = state_dict["backbone.layers.1.att.key.weight"].flatten()
    with pytest.raises(InputError) as caught:
        vrwkv.load_published(model, state_dict)
    message = str(caught.value)
    assert "\n" not in message
    assert "2 missing: norm.weight, head.bias" in message
    assert "1 unexpected: layers.0.gamma1" in message
    assert "2 of another shape: pos_embed (1, 9, 16) for (1, 4, 16)" in message
    assert "blocks.1.spatial_mix.key.weight (256,) for (16, 16)" in message
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("build", "other"),
    [
        (small, lambda: small(mixer="bi_wkv6", num_heads=1)),
        (lambda: small(mixer="bi_wkv6", num_heads=1), small),
        (small, lambda: small(depth=3)),
        (lambda: small(depth=3), small),
        (small, lambda: small(embed_dim=32)),
        (small, large_style),
        (lambda: small(num_classes=0), small),
        (lambda: small(num_classes=21841), small),
    ],
)
def test_another_architecture_is_refused(build: Callable[[], VisionRWKV], other: Callable[[], VisionRWKV]) -> None:
    with pytest.raises(InputError, match="does not fit this VisionRWKV: "):
        vrwkv.load_published(other(), vrwkv.to_published(build()))


def test_the_same_tensor_twice_is_refused() -> None:
    state_dict = vrwkv.to_published(small())
    state_dict["module.ln1.weight"] = torch.zeros(16)
    with pytest.raises(
        InputError, match=r"'module.ln1.weight' of the checkpoint stands for 'norm.weight', and so does"
    ):
        vrwkv.load_published(small(), state_dict)


class Malicious:
    """Creates a file when unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_refused_and_not_run(legacy: bool, tmp_path: Path) -> None:
    path, witness = tmp_path / "bad.pth", tmp_path / "witness"
    container = {"state_dict": vrwkv.to_published(small()), "meta": Malicious(witness)}
    torch.save(container, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=r"cannot be read as weights: it holds (posix|nt|os)\.system") as caught:
        vrwkv.load_published(small(), path)
    assert "\n" not in str(caught.value)
    assert not witness.exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "module.pth")
    with pytest.raises(InputError, match="and only tensors and plain data are read; save the state dict alone"):
        vrwkv.load_published(small(), tmp_path / "module.pth")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello world",
        b"<!DOCTYPE html><html>not found</html>",
        bytes(range(256)),
        b"PK\x03\x04 broken",
        b"\x80\x02}",
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_garbage_is_one_line(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        vrwkv.load_published(small(), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_and_damaged_files(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": {"a": torch.ones(50)}}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, len(whole) // 30):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="cannot be read as weights"):
            vrwkv.load_published(small(), path)
    for position in range(0, len(whole), len(whole) // 100):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x5A]) + whole[position + 1 :])
        with pytest.raises(InputError):
            vrwkv.load_published(small(), path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([torch.ones(2)], "found a list"),
        (torch.ones(2), "found a Tensor"),
        ({}, "found nothing"),
        ({"epoch": 3, "args": {"lr": 1.0}}, "found epoch, args"),
        ({"state_dict": {"ln1.weight": "text"}}, "found ln1.weight"),
        ({1: torch.ones(2)}, "found 1"),
    ],
)
def test_files_without_a_state_dict(content: object, found: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(InputError, match=f"holds no state dict; expected tensors by name, {found}"):
        vrwkv.load_published(small(), tmp_path / "other.pth")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"checkpoint \S*nothing.pth does not exist"):
        vrwkv.load_published(small(), tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="is a folder, not a file"):
        vrwkv.load_published(small(), tmp_path)


def test_plain_pickles_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "plain.pth"
    path.write_bytes(pickle.dumps({"state_dict": 3}, protocol=5))
    with pytest.raises(InputError):
        vrwkv.load_published(small(), path)
