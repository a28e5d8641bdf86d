"""tools/visualize.py from end to end, and one line for whatever is wrong with its input."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import vrwkv
from vrwkv.commands.drawn_model import drawn_model
from vrwkv.commands.visualize import main
from vrwkv.objectives.classifier import create_classifier, save_metadata
from vrwkv.objectives.classifier_config import ClassifierModelConfig
from vrwkv.training.weights import save_weights
from vrwkv.visualize import build_backbone, load_backbone

SMALL = {"depth": 2, "embed_dim": 48, "img_size": 48}
KWARGS = ["--model-kwargs", *(f"{key}={value}" for key, value in SMALL.items())]
NAME = "vrwkv_tiny_patch16_224"


@pytest.fixture
def photograph(tmp_path: Path) -> str:
    Image.effect_noise((70, 50), 80).convert("RGB").save(tmp_path / "noise.png")
    return str(tmp_path / "noise.png")


def small(name: str = NAME, **options: object) -> torch.nn.Module:
    torch.manual_seed(7)
    return timm.create_model(name, **{**SMALL, "num_classes": 5, **options})


def drawn(folder: Path) -> list[str]:
    files = sorted(path.name for path in folder.iterdir())
    for file in files:
        with Image.open(folder / file) as image:
            image.load()
            assert min(image.size) > 300
    return files


def test_everything_is_drawn_untrained_and_trained(
    tmp_path: Path, photograph: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    save_weights(small(), tmp_path / "run" / "model.safetensors")
    images = ["--image", photograph, photograph, "--size", "40", "--patch", "0", "2"]
    output = ["--output", str(tmp_path / "out" / "pictures")]
    main(["--model", NAME, *KWARGS, *images, *output, "--checkpoint", str(tmp_path / "run")])
    assert drawn(tmp_path / "out" / "pictures") == ["decay.png", "erf.png", "pca.png", "similarity.png"]
    assert str(tmp_path / "out" / "pictures" / "erf.png") in capsys.readouterr().out


def test_a_run_folder_knows_its_model(tmp_path: Path, photograph: str, mistake: Callable) -> None:
    config = ClassifierModelConfig(NAME, image_size=40, patch_size=8, embed_dim=48, depth=2, options={"key_norm": True})
    classifier = create_classifier(config, 5)
    run = tmp_path / "run"
    run.mkdir()
    save_weights(classifier.model, run / "model.safetensors", save_metadata(classifier))
    given = ["--what", "decay", "--checkpoint", str(run), "--image", photograph, "--output"]
    main([*given, str(tmp_path / "out")])
    assert drawn(tmp_path / "out") == ["decay.png"]
    found = drawn_model(None, str(run), {"depth": 1})
    assert found.image_size == 40
    assert found.options == {"img_size": 40, "patch_size": 8, "embed_dim": 48, "depth": 1, "key_norm": True}
    other = [*given, str(tmp_path / "none"), "--model", "vrwkv_small_patch16_224"]
    assert f"holds {NAME}, not --model vrwkv_small_patch16_224" in mistake(main, other)
    save_weights(classifier.model, run / "model.safetensors")
    assert "does not say what it holds: name the model" in mistake(main, [*given, str(tmp_path / "none")])
    assert "name the model, for example" in mistake(main, ["--output", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_an_image_text_run_knows_its_image_tower(tmp_path: Path, photograph: str) -> None:
    pytest.importorskip("open_clip")
    from rwkv_clip.model import ImageTowerConfig, ModelConfig, TextTowerConfig, create_model
    from rwkv_clip.model import save_metadata as save_pair_metadata

    image = ImageTowerConfig(NAME, image_size=48, patch_size=8, embed_dim=32, depth=1)
    config = ModelConfig(32, image, TextTowerConfig(depth=1, num_heads=2))
    save_weights(create_model(config), tmp_path / "model.safetensors", save_pair_metadata(config))
    main(["--what", "pca", "--checkpoint", str(tmp_path), "--image", photograph, "--output", str(tmp_path / "out")])
    assert drawn(tmp_path / "out") == ["pca.png"]


def test_models_that_hold_all_sums_constant_and_vit_are_drawn_too(
    tmp_path: Path, photograph: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ["--image", photograph, "--size", "48", "--output"]
    main(["--what", "erf", "--model", "vrwkv_small_patch16_224", *KWARGS, *shared, str(tmp_path / "small")])
    assert drawn(tmp_path / "small") == ["erf.png"]
    main(["--model", "vit_tiny_patch16_224", "--model-kwargs", "depth=1", *shared, str(tmp_path / "vit")])
    assert drawn(tmp_path / "vit") == ["erf.png", "pca.png", "similarity.png"]
    assert "no decay map" in capsys.readouterr().err


def test_scikit_learns_photographs_stand_in_for_images(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    main(
        [
            "--what",
            "similarity",
            "--model",
            NAME,
            *KWARGS,
            "--size",
            "48",
            "--output",
            str(tmp_path),
            "--pixel",
            "3",
            "40",
        ]
    )
    assert drawn(tmp_path) == ["similarity.png"]


def test_checkpoints_of_other_layouts_are_found(tmp_path: Path) -> None:
    model = small()
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    ours, published = model.state_dict(), vrwkv.to_published(model)
    for number, layout in enumerate(
        (
            ours,
            {"state_dict": {f"backbone.{name}": tensor for name, tensor in published.items()}},
            {**{f"visual.trunk.{name}": tensor for name, tensor in wanted.items()}, "text.norm.weight": torch.ones(3)},
            {**{f"image_model.{name}": tensor for name, tensor in published.items()}, "logit_scale": torch.ones(())},
        )
    ):
        file = tmp_path / f"{number}.pt"
        torch.save(layout, file)
        loaded = build_backbone(NAME, SMALL)
        load_backbone(loaded, file)
        assert loaded.state_dict().keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in loaded.state_dict().items())


def test_untrained_weights_are_the_same_at_every_call_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = build_backbone(NAME, SMALL), build_backbone(NAME, SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.patch_embed.proj.weight, second.patch_embed.proj.weight)


BAD: dict[str, tuple[list[str], str]] = {
    "near name": (["--model", "vrwkv_tiny_patch16_242"], "did you mean vrwkv_tiny_patch16_224"),
    "far name": (["--model", "?"], "unknown model '?'; did you mean rwkv_clip"),
    "unknown option of the model": (["--model-kwargs", "colour=red"], "colour"),
    "no pair": (["--model-kwargs", "depth"], "write KEY=VALUE"),
    "missing image": (["--image", "{tmp}/noisy.png"], "does not exist; did you mean noise.png?"),
    "corrupt image": (["--image", "{tmp}/corrupt.png"], "cannot be read as an image"),
    "text for an image": (["--image", "{tmp}/text.png"], "cannot be read as an image"),
    "small image": (["--image", "{tmp}/small.png"], "has 40×12 pixels, less than a patch of 16×16"),
    "small size": (["--size", "15"], "--size 15 is less than a patch"),
    "patch outside": (["--patch", "0", "3"], "(row 0, column 3) lies outside the grid: rows 0 to 2, columns 0 to 2"),
    "pixel outside": (["--pixel", "-9", "0"], "column -1) lies outside the grid"),
    "no such block": (["--block", "2"], "has blocks 0 to 1"),
    "foreign checkpoint": (["--checkpoint", "{tmp}/foreign.pt"], "does not fit this VisionRWKV: "),
    "wider checkpoint": (["--checkpoint", "{tmp}/wide.safetensors"], "of another shape (pos_embed (1, 9, 96)"),
    "no checkpoint": (["--checkpoint", "{tmp}/nothing.pt"], "does not exist"),
    "broken checkpoint": (["--checkpoint", "{tmp}/text.png"], "cannot be read as weights"),
    "output is a file": (["--output", "{tmp}/noise.png"], "is a file; name a folder"),
    "no patches": (["--model", "resnet18", "--model-kwargs", "num_classes=0"], "does not cut images into patches"),
    "device": (["--device", "abacus"], "unknown device"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(case: str, tmp_path: Path, photograph: str, mistake: Callable) -> None:
    (tmp_path / "corrupt.png").write_bytes(Path(photograph).read_bytes()[:1000])
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (40, 12)).save(tmp_path / "small.png")
    torch.save(timm.create_model("vit_tiny_patch16_224", depth=1).state_dict(), tmp_path / "foreign.pt")
    save_weights(small(embed_dim=96), tmp_path / "wide.safetensors")
    arguments, message = BAD[case]
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    usual = ["--model", NAME, *KWARGS, "--image", photograph, "--size", "48", "--output", str(tmp_path / "out")]
    error = mistake(main, [*usual, *given])
    assert message in error
    assert len(error) < 400
    assert not (tmp_path / "out").exists()


def test_a_decay_map_of_a_vision_transformer_is_refused_by_name(
    tmp_path: Path, photograph: str, mistake: Callable
) -> None:
    arguments = ["--what", "decay", "--model", "vit_tiny_patch16_224", "--image", photograph, "--output"]
    assert "a decay map needs a vrwkv model" in mistake(main, [*arguments, str(tmp_path / "out")])
