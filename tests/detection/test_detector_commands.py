"""The detector's commands as a user types them: train, resume, evaluate, draw; and the mistakes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vrwkv.commands import eval_detector, train_detector

pytest.importorskip("pycocotools")

ROOT = Path(__file__).parents[2]
NANO = ["--config", str(ROOT / "configs" / "detection" / "digit_scenes_nano.yaml")]
TINY = [
    "model.embed_dim=16",
    "model.depth=2",
    "model.drop_path_rate=0.1",
    "model.channels=8",
    "model.box_dim=16",
    "model.mask_channels=8",
    "model.min_size=[64, 96]",
    "model.max_size=96",
    "data.train.scenes=12",
    "data.train.held_out_scenes=4",
    "data.train.size=64",
    "evaluate.data.held_out_scenes=4",
    "evaluate.data.size=64",
    "data.batch_size=4",
    "data.augmentation.scale_jitter=[0.8, 1.3]",
    "train.epochs=2",
    "train.evaluate_every=0",
    "train.save_every=0.6",
    "train.keep_checkpoints=9",
    "train.log_every=1",
    "schedule.warmup_steps=2",
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("scenes") / "set"
    return [f"data.train.path={folder}", f"evaluate.data.path={folder}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, scenes: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("detector") / "run"
    train_detector.main([*NANO, *TINY, *scenes, f"run.output={folder}"])
    return folder


def test_a_run_folder_holds_all_of_the_run(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert 0 <= results["box_ap"] <= results["box_ap50"] <= 1
    assert {"mask_ap", "mask_ap50", "mask_ap75", "box_ap75"} <= results.keys()
    assert results["images"] == 4
    assert results["skipped"] == {"training samples": 0, "evaluation images": 0}
    assert results["parameters"] == sum(tensor.numel() for tensor in load_file(run / "model.safetensors").values())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert "loss_mask" in lines[0]
    for name in ("config.yaml", "report/training.png", "report/predictions.png", "report/per_class.csv"):
        assert (run / name).stat().st_size > 0, name


def test_resuming_changes_no_bit(run: Path, scenes: list[str], tmp_path: Path) -> None:
    resumed = tmp_path / "resumed"
    shutil.copytree(run, resumed)
    checkpoints = sorted((resumed / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step_00000002", "step_00000004", "step_00000006"]
    for path in checkpoints[1:]:
        shutil.rmtree(path)
    for name in ("model.safetensors", "results.json"):
        (resumed / name).unlink()
    train_detector.main([*NANO, *TINY, *scenes, f"run.output={resumed}", "run.resume=true"])
    before, after = load_file(run / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((run / "results.json").read_text()) == json.loads((resumed / "results.json").read_text())


def test_evaluating_a_run_repeats_its_numbers(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = json.loads((run / "results.json").read_text())
    eval_detector.main([str(run), "--output", str(tmp_path), "--batch-size", "3"])
    evaluated = json.loads((tmp_path / "results.json").read_text())
    for name in ("box_ap", "box_ap50", "mask_ap", "images"):
        assert evaluated[name] == pytest.approx(trained[name], abs=1e-6)
    assert (tmp_path / "report" / "predictions.png").exists()
    assert f"box AP                       {100 * trained['box_ap']:5.2f} %" in capsys.readouterr().out


def test_drawing_what_is_found_in_images_of_ones_own(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (70, 50), "gray").save(tmp_path / "mine.jpg")
    eval_detector.main([str(run), "--image", str(tmp_path / "mine.jpg"), "--output", str(tmp_path), "--threshold", "0"])
    assert Image.open(tmp_path / "mine_detections.png").width > 300
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'mine.jpg'}: ")


def coco_copy(scenes: list[str], folder: Path, change: Callable[[dict], None]) -> list[str]:
    """Arguments for a changed copy of the training scenes as a data set of one's own."""
    source = Path(scenes[0].partition("=")[2])
    content = json.loads((source / "annotations" / "instances_train2017.json").read_text())
    change(content)
    (folder / "own.json").write_text(json.dumps(content))
    shutil.copytree(source / "train2017", folder / "images")
    own = ["kind=coco", f"annotations={folder / 'own.json'}", f"images={folder / 'images'}", "path="]
    defaults = ["scenes=2000", "held_out_scenes=200", "size=128"]
    return [f"data.train.{each}" for each in own + defaults]


def foreign_label(content: dict) -> None:
    content["annotations"][3]["category_id"] = 11


def wrong_size(content: dict) -> None:
    content["images"][0]["width"] = 65
    for each in content["annotations"]:
        each["segmentation"] = [[0, 0, 9, 0, 9, 9]]


def missing_image(content: dict) -> None:
    content["images"][0]["file_name"] = "gone.jpg"


def fewer_classes(content: dict) -> None:
    content["categories"] = content["categories"][:9]
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] < 10]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (foreign_label, "category_id 11, which is none of the categories (1 to 10)"),
        (wrong_size, "has 64×64 pixels, but own.json says 65×64"),
        (missing_image, "gone.jpg: file not found"),
        (fewer_classes, "are not the detector's: 10 instead of 9"),
    ],
)
def test_mistakes_in_the_data_are_one_line(
    run: Path,  # which has drawn the scenes
    scenes: list[str],
    tmp_path: Path,
    change: Callable[[dict], None],
    said: str,
    mistake: Callable,
) -> None:
    own = coco_copy(scenes, tmp_path, change)
    assert said in mistake(train_detector.main, [*NANO, *TINY, *scenes, *own, f"run.output={tmp_path / 'run'}"])
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.options={init_mod: fancy}"], "init_mod"),
        (["model.architecture=vrwkv_tini_patch16_224"], "did you mean 'vrwkv_tiny_patch16_224'"),
        (["model.adapter=true", "model.patch_size=8"], "patch_size 16"),
        (["model.checkpoint=runs/nowhere"], "runs/nowhere does not exist"),
        (["model.max_size=10"], "model.max_size 10"),
        (["data.train.kind=coco"], "path belongs to kind=digit_scenes"),
        (["data.train.scenes=13"], "holds 12 train scenes, but scenes=13"),
        (["data.batch_size=13"], "fewer than one batch"),
        (["schedule.name=step"], "milestones belong to name=step"),
        (["data.augmentation.scale_jitter=[2, 1]"], "scale_jitter"),
    ],
)
def test_mistakes_in_training_are_one_line(
    run: Path, scenes: list[str], tmp_path: Path, overrides: list[str], said: str, mistake: Callable
) -> None:
    arguments = [*NANO, *TINY, *scenes, f"run.output={tmp_path / 'run'}", *overrides]
    assert said in mistake(train_detector.main, arguments)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_size_is_one_line(
    run: Path, scenes: list[str], tmp_path: Path, mistake: Callable
) -> None:
    larger = [f"model.checkpoint={run}", "model.embed_dim=32", f"run.output={tmp_path / 'run'}"]
    line = mistake(train_detector.main, [*NANO, *TINY, *scenes, *larger])
    assert "does not fit RWKVMaskRCNN" in line
    assert "backbone.body." in line


def test_mistakes_in_evaluation_are_one_line(run: Path, tmp_path: Path, mistake: Callable) -> None:
    assert "nowhere" in mistake(eval_detector.main, ["nowhere"])
    weights = str(run / "model.safetensors")
    assert "give --data" in mistake(eval_detector.main, [weights])
    assert "--threshold" in mistake(eval_detector.main, [weights, "--threshold", "2"])
    assert "does not exist" in mistake(eval_detector.main, [weights, "--image", str(tmp_path / "no.jpg")])
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes((run / "model.safetensors").read_bytes()[:900])
    assert "safetensors" in mistake(eval_detector.main, [str(broken)])
