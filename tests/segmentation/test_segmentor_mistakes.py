"""What a user can get wrong: one line that says what, where, and what would be right; exit status 2."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vrwkv.command import run_command
from vrwkv.commands import test_segmentor as testing
from vrwkv.commands import train_segmentor as training
from vrwkv.data.digit_scenes import DigitScenes
from vrwkv.data.scene_files import write_ade20k

pytestmark = pytest.mark.filterwarnings("ignore")
WriteConfig = Callable[..., Path]


def refused(main: Callable, arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as status:
        run_command(main, arguments)
    assert status.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in lines[-1]
    return lines[-1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.backbone.embed_dimz=3", "no argument 'embed_dimz'; did you mean 'embed_dim"),
        ("model.backbone.type=VisionRWKW", "VisionRWKW is not in the mmseg::model registry"),
        ("modle.backbone.embed_dim=3", "the key 'modle.backbone.embed_dim' is unknown; did you mean 'model'"),
        ("dataset.size=(1,2)", "the key 'dataset.size' has no effect"),
        ("model.decode_head.num_classes=7", "the train data has 11 classes, the model's head 7: set num_classes"),
        ("train_dataloader.dataset.split=tain", "must be 'train' or 'held_out', not 'tain'"),
        ("train_dataloader.dataset.scenes=(9,4)", "has 6 scenes, not 9: name another data_root or remove it"),
        ("train_dataloader.dataset.size=(64,96)", "has scenes of 64 × 64 pixels, not 96 × 64"),
        ("nonsense", "'nonsense' is no setting: write key=value"),
        ("train_pipeline.9.type=A", "the key 'train_pipeline.9.type' has no effect"),
        ("param_scheduler.7.type=A", "param_scheduler is a list with places 0 to 1"),
        ("load_from=missing.pth", "missing.pth"),
    ],
)
def test_configuration(
    override: str, message: str, write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_ade20k(tmp_path / "scenes", DigitScenes("train", 6, (64, 64)), DigitScenes("held_out", 4, (64, 64)))
    config = write_config()
    assert message in refused(training.main, [str(config), override, "--work-dir", str(tmp_path / "run")], capsys)
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        ("[[0, 0, 0]]", "the train data has 11 classes and a palette of 1 colours"),
        ("[[0, 0, 300]] * 11", "has [0, 0, 300]: colours are [R, G, B], 0 to 255"),
    ],
)
def test_palettes(
    palette: str, message: str, write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    metainfo = f'dict(classes=tuple("abcdefghijk"), palette={palette})'
    config = write_config(f'train_dataloader["dataset"] = dict(**dataset, metainfo={metainfo})\n')
    assert message in refused(training.main, [str(config), "--work-dir", str(tmp_path / "run")], capsys)


def change(file: Path, kind: str) -> None:
    values = np.asarray(Image.open(file)).copy()
    if kind == "label":
        values[3, 4] = 77
    elif kind == "size":
        values = values[:, :50]
    elif kind == "colours":
        values = np.repeat(values[:, :, None], 3, 2)
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:60])
    else:
        Image.fromarray(values).save(file)


@pytest.mark.parametrize(
    ("kind", "workers", "message"),
    [
        ("label", 1, r"mask .*scene_00002.png has the values 77, which are none of the 11 classes \(1 to 11; 255"),
        ("size", 0, r"scene_00002.png has 50 × 64 pixels, its image .*scene_00002.jpg 64 × 64"),
        ("truncated", 0, r"the mask .*scene_00002.png is truncated or no image"),
        ("image", 0, r"the image .*scene_00002.jpg is truncated or no image"),
    ],
)
def test_files(
    kind: str, workers: int, message: str, write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "scenes"
    write_ade20k(folder, DigitScenes("train", 6, (64, 64)), DigitScenes("held_out", 4, (64, 64)))
    if kind == "image":
        (folder / "images/training/scene_00002.jpg").write_bytes(b"no image")
    else:
        change(folder / "annotations/training/scene_00002.png", kind)
    arguments = [str(write_config()), "--work-dir", str(tmp_path / "run"), f"train_dataloader.num_workers={workers}"]
    line = refused(training.main, arguments, capsys)
    assert re.search(message, line), line
    assert line.count("scene_00002.png") <= 1


def test_missing_masks_are_counted_before_training(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_ade20k(tmp_path / "scenes", DigitScenes("train", 6, (64, 64)), DigitScenes("held_out", 4, (64, 64)))
    for number in (1, 4):
        (tmp_path / f"scenes/annotations/training/scene_0000{number}.png").unlink()
    line = refused(training.main, [str(write_config()), "--work-dir", str(tmp_path / "run")], capsys)
    assert "2 of the 6 train images have no mask; the first should be" in line
    assert line.endswith("scenes/annotations/training/scene_00001.png")


def test_checkpoints_of_another_size(write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config, run = str(write_config()), tmp_path / "run"
    training.main([config, "train_cfg.max_iters=1", "--work-dir", str(run), "default_hooks.checkpoint.interval=1"])
    wider = ["model.decode_head.channels=12", "model.auxiliary_head.channels=12"]
    line = refused(training.main, [config, *wider, "--work-dir", str(run), "--resume"], capsys)
    assert "iter_1.pth does not fit the configured model" in line
    line = refused(testing.main, [config, *wider, "--checkpoint", str(run / "model.safetensors")], capsys)
    assert "of another shape" in line
    tensors = load_file(run / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if "conv_seg" not in name}, tmp_path / "part.safetensors"
    )
    line = refused(testing.main, [config, "--checkpoint", str(tmp_path / "part.safetensors")], capsys)
    assert "conv_seg" in line
    save_file({"head.weight": torch.zeros(2, 2)}, tmp_path / "foreign.safetensors")
    line = refused(testing.main, [config, "--checkpoint", str(tmp_path / "foreign.safetensors")], capsys)
    assert "no weights below 'backbone.'" in line


def test_run_folders(write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config, run = str(write_config()), tmp_path / "run"
    assert "give the weights with --checkpoint FILE" in refused(testing.main, [config], capsys)
    assert "does not exist" in refused(testing.main, [str(tmp_path / "nowhere"), "--checkpoint", "a"], capsys)
    run.mkdir()
    assert "has neither model.safetensors nor a checkpoint" in refused(testing.main, [str(run)], capsys)
    training.main([config, "train_cfg.max_iters=1", "--work-dir", str(run), "default_hooks.checkpoint.interval=1"])
    again = refused(training.main, [config, "--work-dir", str(run)], capsys)
    assert "holds a run already (iter_1.pth): give --resume, --overwrite or another --work-dir" in again
    if not torch.cuda.is_available():
        amp = refused(training.main, [config, "--work-dir", str(tmp_path / "other"), "--amp"], capsys)
        assert "--amp needs a GPU" in amp
