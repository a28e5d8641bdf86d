"""Every registered image model saved in timm's hub format, with its card, and built again from there."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from models_under_test import NAMES, WIDTHS, build, every_model, images, patch_of
from timm.models import _hub

import vrwkv
from vrwkv.models import model_card, push_to_hf_hub, save_for_hf

# Small models are not the registered ones; older versions want the caller to say so in `model_args`.
needs_timms_notes = pytest.mark.skipif(
    importlib.util.find_spec("timm.models._input") is None, reason="this timm does not note constructor arguments"
)


@needs_timms_notes
@every_model
@pytest.mark.parametrize(
    "options", [{}, {"in_chans": 1, "num_classes": 0, "global_pool": "max"}], ids=["plain", "other"]
)
def test_local_round_trip(name: str, options: dict[str, object], tmp_path: Path) -> None:
    model = build(name, **options)
    save_for_hf(model, tmp_path / "mine")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == (name, model.num_classes)
    assert config["pretrained_cfg"]["input_size"][0] == model.in_chans == options.get("in_chans", 3)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True).eval()
    x = images(name, 2, 40, 70, channels=model.in_chans)
    assert torch.equal(loaded(x), model(x))
    adapted = timm.create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True, num_classes=3, in_chans=3)
    assert adapted(images(name)).shape == (2, 3)


@needs_timms_notes
@every_model
def test_timms_own_function_writes_what_timm_loads(name: str, tmp_path: Path) -> None:
    model, x = build(name), images(name)
    model.set_input_size((2 * patch_of(name), 8 * patch_of(name)), patch_size=patch_of(name) // 2)
    timm.models.save_for_hf(model, str(tmp_path))
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert loaded.patch_embed.grid_size == (4, 16)
    assert torch.equal(loaded(x), model(x))
    # As many tokens as a square grid has, but not a square one.
    square = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=4 * patch_of(name)).eval()
    assert square.patch_embed.grid_size == (8, 8)
    model.set_input_size((4 * patch_of(name), 4 * patch_of(name)))
    torch.testing.assert_close(square(x), model(x))


@needs_timms_notes
@every_model
def test_folder_and_card_have_the_present_image_size(name: str, tmp_path: Path) -> None:
    patch = patch_of(name)
    model = timm.create_model(name, depth=1, embed_dim=WIDTHS[name])
    registered = model.pretrained_cfg["input_size"]

    def saved() -> tuple[tuple[int, ...], str]:
        save_for_hf(model, tmp_path)
        assert model.pretrained_cfg["input_size"] == registered
        loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
        card = (tmp_path / "README.md").read_text()
        return timm.data.resolve_model_data_config(loaded)["input_size"], card

    assert saved()[0] == registered
    model.set_input_size((2 * patch, 3 * patch))
    size, card = saved()
    assert size == (3, 2 * patch, 3 * patch)
    assert f"{3 * patch} x {2 * patch} pixels" in card
    model = build(name)
    assert saved()[0] == (3, 3 * patch, 3 * patch)


def test_the_large_model_moved_to_the_size_of_its_positions(tmp_path: Path) -> None:
    model = timm.create_model("vrwkv_large_patch16_384", depth=1, embed_dim=32, head_hidden_dim=8)
    assert "384 x 384" in str(model_card(model, "local-dir:mine"))
    model.set_input_size(192)
    assert "192 x 192" in str(model_card(model, "local-dir:mine"))


@every_model
def test_the_card_says_what_it_is_and_how_to_load_it(name: str, tmp_path: Path) -> None:
    model = build(name)
    save_for_hf(model, tmp_path, "Trained on **nothing**.")
    card = (tmp_path / "README.md").read_text()
    config = model.pretrained_cfg
    paper = config["paper_ids"].removeprefix("arXiv:")
    for part in (
        "pipeline_tag: image-classification\n",
        f"license: {config['license']}\n",
        "Trained on **nothing**.",
        "- **Classes:** 5\n",
        f"https://arxiv.org/abs/{paper}",
        f"journal={{arXiv preprint arXiv:{paper}}}",
        "import vrwkv",
        f'timm.create_model("local-dir:{tmp_path.name}", pretrained=True)',
    ):
        assert part in card, part
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    backbone = model_card(build(name, num_classes=0), "hf-hub:me/mine")
    assert "image-feature-extraction" in backbone["tags"]
    assert "Classes" not in backbone["details"]
    assert "features = model(" in backbone["usage"]


@needs_timms_notes
def test_pushed_folder_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        """Keeps what is uploaded in a folder."""

        def __init__(self, **_: object) -> None:
            pass

        def create_repo(self, repo_id: str, **_: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def file_exists(self, **_: object) -> bool:
            return False

        def upload_folder(self, repo_id: str, folder_path: str, **_: object) -> str:
            for path in Path(folder_path).iterdir():
                (tmp_path / path.name).write_bytes(path.read_bytes())
            return f"committed to {repo_id}"

    monkeypatch.setattr(_hub, "HfApi", Hub)
    monkeypatch.setattr(
        _hub, "hf_hub_download", lambda *arguments, filename=None, **_: tmp_path / (filename or arguments[1])
    )
    name = NAMES[0]
    model, x = build(name), images(name)
    assert push_to_hf_hub(model, "me/mine") == "committed to me/mine"
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert 'timm.create_model("hf-hub:me/mine", pretrained=True)' in (tmp_path / "README.md").read_text()
    assert torch.equal(timm.create_model("hf-hub:me/mine", pretrained=True).eval()(x), model(x))


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(vrwkv.InputError, match=r"not from timm\.create_model"):
        save_for_hf(vrwkv.VisionRWKV(depth=1, embed_dim=16), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(vrwkv.InputError, match="is a file"):
        save_for_hf(build(NAMES[0]), tmp_path / "file")
