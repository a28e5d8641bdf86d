"""RWKV-CLIP files through the same command: both towers, bfloat16 parts, and text decays that never moved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor, nn

import rwkv_clip
import vrwkv
from rwkv_clip import ModelConfig
from rwkv_clip.commands.convert_checkpoint import main
from rwkv_clip.model import ImageTowerConfig, TextTowerConfig
from vrwkv.models.conversion import same_bits
from vrwkv.models.published_files import IMAGE_TEXT, PublishedFile

TINY_IMAGE: dict[str, Any] = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def released_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """As training left it: random weights, but decays and bonuses of the text tower are bfloat16 and never moved."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("text.") or not name.endswith((".decay", ".bonus")):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return {
        f"module.{name}": tensor.bfloat16() if "text_model" in name and name.endswith(("decay", "faaaa")) else tensor
        for name, tensor in rwkv_clip.to_published(model).items()
    }


@pytest.fixture
def tiny() -> dict[str, Tensor]:
    torch.manual_seed(0)
    text = TextTowerConfig(depth=2, num_heads=2, mlp_ratio=3)
    image = ImageTowerConfig(**TINY_IMAGE, mlp_ratio=3)
    return released_state_dict(rwkv_clip.create_model(ModelConfig(embed_dim=32, image=image, text=text)))


@pytest.mark.parametrize("legacy", [False, True])
def test_there_and_back(
    legacy: bool, tiny: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sum(tensor.dtype == torch.bfloat16 for tensor in tiny.values()) == 4
    torch.save(tiny, tmp_path / "model_31.pt", _use_new_zipfile_serialization=not legacy)
    main([str(tmp_path / "model_31.pt"), "--output", str(tmp_path / "clip")])
    out = capsys.readouterr().out
    assert "equal to bfloat16 of their starting values" in out
    assert f"all {len(tiny)} tensors to the bit" in out
    ours, _, tokenizer = rwkv_clip.load(tmp_path / "clip")
    direct, _, _ = rwkv_clip.load(tmp_path / "model_31.pt")
    ids, image = tokenizer(["a dog"]), torch.randn(1, 3, 32, 32)
    assert torch.equal(ours.encode_text(ids), direct.encode_text(ids))
    assert torch.equal(ours.encode_image(image), direct.encode_image(image))
    main([str(tmp_path / "clip"), "--to", "published", "--output", str(tmp_path / "back.pt")])
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(back) == list(tiny)
    assert all(same_bits(back[name], tensor) for name, tensor in tiny.items())
    (tmp_path / "clip" / "published.json").unlink()
    main([str(tmp_path / "clip"), "--to", "published", "--output", str(tmp_path / "own.pt")])
    own = torch.load(tmp_path / "own.pt", weights_only=True)
    assert {f"module.{name}" for name in own} == set(tiny)
    assert all(torch.equal(own[name.removeprefix("module.")], tensor.float()) for name, tensor in tiny.items())


@pytest.mark.parametrize("file", IMAGE_TEXT, ids=lambda file: file.name)
def test_counts_of_released_files(file: PublishedFile) -> None:
    with torch.device("meta"):
        model = open_clip.create_model(f"RWKV-CLIP-B-{file.name[11:13]}", device="meta")
    state_dict = model.state_dict()
    assert (len(state_dict), sum(t.numel() for t in state_dict.values())) == (file.tensors, file.parameters)


def test_text_decays_that_moved_are_pointed_out(
    tiny: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny["module.text_model.blocks.1.att.time_decay"][..., 3:5] += 0.1
    torch.save(tiny, tmp_path / "model_31.pt")
    main([str(tmp_path / "model_31.pt"), "--output", str(tmp_path / "clip")])
    assert "warning: 2 decays of the text tower have moved" in capsys.readouterr().out


def test_vision_files_take_the_same_command(tmp_path: Path, mistake: Callable) -> None:
    torch.save({"text_model.emb.weight": torch.zeros(2, 2)}, tmp_path / "a.pt")
    torch.save({"cls_token": torch.zeros(2, 2)}, tmp_path / "b.pt")
    for file, message in (("a.pt", "these are not RWKV-CLIP weights"), ("b.pt", "these are no Vision-RWKV weights")):
        assert message in mistake(main, [str(tmp_path / file), "--output", str(tmp_path / "out")])


@pytest.mark.parametrize("file", IMAGE_TEXT, ids=lambda file: file.name)
def test_timm_takes_the_image_tower_of_the_hub_files(
    file: PublishedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    options = {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 64}
    tower = timm.create_model(file.model, **options)
    published = {f"module.image_model.{name}": t for name, t in vrwkv.to_published(tower).items()}
    torch.save({**published, "module.logit_scale": torch.zeros(()), "module.text_model.emb.weight": torch.zeros(2, 2)},
               tmp_path / "model_31.pt")  # fmt: skip

    def download(repo_id: str, filename: str, **_: Any) -> str:
        if (repo_id, filename) != (f"Kaichengalex/{file.name}", "model_31.pt"):
            raise EntryNotFoundError(filename)
        return str(tmp_path / "model_31.pt")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    loaded = timm.create_model(file.model, pretrained=True, **options)
    for name, tensor in tower.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
