"""timm's own ways of loading, `checkpoint_path=` and pretrained weights from a file, with published and our names."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models._helpers import load_state_dict
from torch import Tensor, nn

import vrwkv
from vrwkv.models.position import resample_position_embedding

StateDict = dict[str, Tensor]
NAME = "vrwkv_small_patch16_224"
LARGE = "vrwkv_large_patch16_384"
OPTIONS: dict[str, Any] = {"depth": 2, "embed_dim": 16, "img_size": 48}

needs_careful_timm = pytest.mark.skipif(
    inspect.signature(load_state_dict).parameters["weights_only"].default is not True,
    reason="this timm reads pickles carelessly of its own accord",
)


def build(name: str = NAME, seed: int = 0, **kwargs: object) -> nn.Module:
    options = {**OPTIONS, **({"head_hidden_dim": 24} if name == LARGE else {}), **kwargs}
    torch.manual_seed(seed)
    model = timm.create_model(name, **options).eval()
    if not kwargs.get("checkpoint_path") and not kwargs.get("pretrained"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def with_backbone(model: nn.Module) -> StateDict:
    published = vrwkv.to_published(model)
    return {name if name.startswith("head.") else f"backbone.{name}": tensor for name, tensor in published.items()}


def from_checkpoint_path(path: Path, name: str = NAME, **kwargs: object) -> nn.Module:
    return build(name, seed=1, checkpoint_path=str(path), **kwargs)


def from_pretrained_file(path: Path, name: str = NAME, **kwargs: object) -> nn.Module:
    return build(name, seed=1, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs)


def assert_same(model: nn.Module, other: nn.Module, but: tuple[str, ...] = ()) -> None:
    for name, tensor in model.state_dict().items():
        if not name.startswith(but):
            assert torch.equal(tensor, other.state_dict()[name]), name


WRAPPINGS: dict[str, Callable[[nn.Module], Any]] = {
    "bare": vrwkv.to_published,
    "backbone": with_backbone,
    "module": lambda model: {f"module.{name}": tensor for name, tensor in with_backbone(model).items()},
    "compiled": lambda model: {f"_orig_mod.{name}": tensor for name, tensor in with_backbone(model).items()},
    "both": lambda model: {f"module._orig_mod.{name}": tensor for name, tensor in with_backbone(model).items()},
    "mmcv": lambda model: {"meta": {"epoch": 1}, "state_dict": with_backbone(model)},
    "mmcv, module": lambda model: {"state_dict": {f"module.{n}": t for n, t in with_backbone(model).items()}},
    "model": lambda model: {"model": vrwkv.to_published(model), "epoch": 3},
    "average": lambda model: {"state_dict": vrwkv.to_published(build(seed=9)), "model_ema": vrwkv.to_published(model)},
    "mixed": lambda model: {n: t.bfloat16() if n == "ln1.weight" else t for n, t in vrwkv.to_published(model).items()},
    "ours": lambda model: model.state_dict(),
    "ours, module": lambda model: {"state_dict": {f"module.{n}": t for n, t in model.state_dict().items()}},
}
every_path = pytest.mark.parametrize("load", [from_checkpoint_path, from_pretrained_file])


@every_path
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(load: Callable[..., nn.Module], wrapping: str, legacy: bool, tmp_path: Path) -> None:
    model, path = build(), tmp_path / "checkpoint.pth"
    if wrapping == "mixed":
        with torch.no_grad():
            model.norm.weight.copy_(model.norm.weight.bfloat16())
    torch.save(WRAPPINGS[wrapping](model), path, _use_new_zipfile_serialization=not legacy)
    assert_same(model, load(path))


@every_path
@pytest.mark.parametrize("name", [NAME, LARGE, "vrwkv6_small_patch16_224"])
def test_safetensors(load: Callable[..., nn.Module], name: str, tmp_path: Path) -> None:
    width = {"embed_dim": 96} if "6" in name.split("_")[0] else {}
    model = build(name, **width)
    save_file({n: t.contiguous() for n, t in with_backbone(model).items()}, tmp_path / "weights.safetensors")
    assert_same(model, load(tmp_path / "weights.safetensors", name, **width))


@every_path
def test_misfits_do_not_pass_silently(load: Callable[..., nn.Module], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    published = vrwkv.to_published(build())
    for change, named in (
        ({"layers.0.ln2.bias": None}, "blocks.0.norm2.bias"),
        ({"layers.7.ln1.weight": torch.ones(16)}, "layers.7.ln1.weight"),
        ({"layers.0.att.key.weight": torch.ones(16, 17)}, "blocks.0.spatial_mix.key.weight"),
        ({"head.fc.weight": None}, "head.weight"),
    ):
        changed = {key: tensor for key, tensor in {**published, **change}.items() if tensor is not None}
        torch.save(changed, path)
        with pytest.raises((RuntimeError, ValueError), match=named):
            load(path)


def test_misfits_do_not_pass_with_another_number_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    published = vrwkv.to_published(build())
    del published["layers.0.ln2.bias"]
    torch.save({**published, "layers.1.extra": torch.ones(1)}, path)
    for num_classes in (0, 7):
        with pytest.raises(vrwkv.InputError) as caught:
            from_pretrained_file(path, num_classes=num_classes)
        assert "1 missing: blocks.0.norm2.bias; 1 unexpected: layers.1.extra" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_classes", [0, 7])
@pytest.mark.parametrize("name", [NAME, LARGE])
def test_another_number_of_classes_keeps_the_trunk(name: str, num_classes: int, tmp_path: Path) -> None:
    model, path = build(name), tmp_path / "checkpoint.pth"
    torch.save(with_backbone(model), path)
    other = from_pretrained_file(path, name, num_classes=num_classes)
    x = torch.randn(1, 3, 48, 48)
    assert torch.equal(other.forward_features(x), model.forward_features(x))
    assert other(x).shape == (1, num_classes or 16)
    if name == LARGE and num_classes:
        assert torch.equal(other.head[0].weight, model.head[0].weight)


def test_another_image_size_resizes_the_positions(tmp_path: Path) -> None:
    model, path = build(), tmp_path / "checkpoint.pth"
    torch.save(with_backbone(model), path)
    other = from_pretrained_file(path, img_size=(80, 32))
    assert_same(model, other, but=("pos_embed",))
    torch.testing.assert_close(other.pos_embed, resample_position_embedding(model.pos_embed, (3, 3), (5, 2)))
    x = torch.randn(1, 3, 80, 32)
    torch.testing.assert_close(other(x), model(x))


def test_another_patch_size_resizes_the_patch_weights(tmp_path: Path) -> None:
    model, path = build(), tmp_path / "checkpoint.pth"
    torch.save(with_backbone(model), path)
    other = from_pretrained_file(path, img_size=24, patch_size=8)
    assert other.patch_embed.proj.weight.shape == (16, 3, 8, 8)
    assert_same(model, other, but=("patch_embed.proj.weight",))
    model.set_input_size(24, 8)
    assert_same(model, other)


def test_one_input_channel_sums_the_colours(tmp_path: Path) -> None:
    model, path = build(), tmp_path / "checkpoint.pth"
    torch.save(with_backbone(model), path)
    other = from_pretrained_file(path, in_chans=1)
    x = torch.randn(1, 1, 48, 48)
    torch.testing.assert_close(other(x), model(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_features_only_takes_pretrained_weights(tmp_path: Path) -> None:
    model, path = build(), tmp_path / "checkpoint.pth"
    torch.save(with_backbone(model), path)
    extractor = from_pretrained_file(path, features_only=True, out_indices=(0, 1))
    x = torch.randn(1, 3, 50, 40)
    torch.testing.assert_close(extractor(x), model.forward_intermediates(x, [0, 1], intermediates_only=True))


def test_a_backbone_inside_another_module_takes_published_keys() -> None:
    class Segmentor(nn.Module):
        def __init__(self, backbone: nn.Module) -> None:
            super().__init__()
            self.backbone = backbone
            self.decode_head = nn.Linear(16, 2)

    trained, fresh = Segmentor(build(num_classes=0)), Segmentor(build(seed=1, num_classes=0))
    published = {f"backbone.{name}": tensor for name, tensor in vrwkv.to_published(trained.backbone).items()}
    fresh.load_state_dict({**published, **trained.decode_head.state_dict(prefix="decode_head.")})
    assert_same(trained, fresh)
    with pytest.raises(RuntimeError, match=r"backbone\.norm\.weight"):
        fresh.load_state_dict({name: t for name, t in published.items() if name != "backbone.ln1.weight"}, strict=True)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@needs_careful_timm
@every_path
def test_code_in_a_pickle_is_not_run(load: Callable[..., nn.Module], tmp_path: Path) -> None:
    torch.save({"state_dict": with_backbone(build()), "meta": Malicious(tmp_path / "witness")}, tmp_path / "bad.pth")
    with pytest.raises(RuntimeError, match="system"):
        load(tmp_path / "bad.pth")
    assert not (tmp_path / "witness").exists()


@needs_careful_timm
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_config_is_plain_data_or_refused_in_one_line(legacy: bool, tmp_path: Path) -> None:
    yacs = pytest.importorskip("yacs.config")
    model, path = build(), tmp_path / "vrwkv_l.pth"
    container = {"model": vrwkv.to_published(model), "config": yacs.CfgNode({"LR": 1e-3})}
    torch.save(container, path, _use_new_zipfile_serialization=not legacy)
    assert_same(model, from_pretrained_file(path))
    with pytest.raises(vrwkv.InputError) as caught:
        from_checkpoint_path(path)
    assert "load it with vrwkv.load_published(model, path)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        from_checkpoint_path(tmp_path / "nothing.pth")
