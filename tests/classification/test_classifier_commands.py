"""The classifier's commands as a user types them: train, resume, evaluate, probe, fine-tune; and the mistakes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vrwkv.commands import eval_classifier, linear_probe, train_classifier

ROOT = Path(__file__).parents[2]
NANO = ["--config", str(ROOT / "configs" / "classification" / "digits_nano.yaml")]
TINY = [
    "model.embed_dim=32",
    "model.depth=2",
    "model.drop_path_rate=0.1",
    "data.batch_size=240",
    "data.repeats=2",
    "data.augmentation.auto_augment=rand-m5-mstd0.5-inc1",
    "loss.mixup=0.2",
    "train.epochs=2",
    "train.lr=5e-3",
    "train.ema_decay=0.8",
    "train.evaluate_every=0",
    "train.save_every=0.6",
    "train.keep_checkpoints=9",
    "train.log_every=1",
    "schedule.warmup_steps=2",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier") / "run"
    train_classifier.main([*NANO, *TINY, f"run.output={folder}"])
    return folder


def test_a_run_folder_holds_all_of_the_run(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert 0 < results["top1"] <= results["top5"] <= 1
    assert results["samples"] == 359
    assert results["parameters"] == sum(tensor.numel() for tensor in load_file(run / "model.safetensors").values())
    for name in ("config.yaml", "metrics.jsonl", "report/training.png", "report/confusion.png", "report/per_class.csv"):
        assert (run / name).stat().st_size > 0, name


def test_resuming_changes_no_bit(run: Path, tmp_path: Path) -> None:
    resumed = tmp_path / "resumed"
    shutil.copytree(run, resumed)
    checkpoints = sorted((resumed / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step_00000003", "step_00000006", "step_00000009", "step_00000010"]
    for path in checkpoints[1:]:
        shutil.rmtree(path)
    for name in ("model.safetensors", "results.json"):
        (resumed / name).unlink()
    train_classifier.main([*NANO, *TINY, f"run.output={resumed}", "run.resume=true"])
    before, after = load_file(run / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((run / "results.json").read_text()) == json.loads((resumed / "results.json").read_text())


def test_evaluating_a_run_repeats_its_numbers(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = json.loads((run / "results.json").read_text())
    eval_classifier.main([str(run), "--output", str(tmp_path), "--resolutions", "8", "12"])
    evaluated = json.loads((tmp_path / "results.json").read_text())
    assert evaluated["top1"] == trained["top1"] == evaluated["resolution_top1"]["8"]
    assert evaluated["mean_per_class"] == trained["mean_per_class"]
    assert evaluated["evaluated_weights"] == trained["evaluated_weights"]
    assert (tmp_path / "report" / "resolution.png").exists()
    out = capsys.readouterr().out
    assert "taken most often for" in out
    assert f"top-1 accuracy              {100 * trained['top1']:6.2f} %" in out


def test_frozen_features_of_a_run(run: Path, tmp_path: Path) -> None:
    linear_probe.main([str(run), "--output", str(tmp_path), "--k", "5"])
    results = json.loads((tmp_path / "results.json").read_text())
    # Two epochs have taught the backbone little, but chance is 0.1, and four standard deviations on 359 are 0.063.
    assert results["linear_probe_top1"] > 0.6
    assert results["knn_top1"] > 0.2


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two colours, twelve pictures each."""
    folder = tmp_path_factory.mktemp("pictures")
    for label, colour in (("blue", (20, 30, 220)), ("red", (220, 30, 20))):
        (folder / label).mkdir()
        for index in range(12):
            Image.new("RGB", (14 + index, 12), tuple(value + index for value in colour)).save(
                folder / label / f"{index}.png"
            )
    return folder


def fine_tuned(run: Path, pictures: Path, output: Path, *overrides: str) -> dict:
    return train_classifier.train(
        train_classifier.parse_command_line(
            train_classifier.ClassifierConfig,
            [
                f"run.output={output}",
                f"model.checkpoint={run}",
                "model.image_size=12",
                "model.patch_size=2",
                "model.embed_dim=32",
                "model.depth=2",
                f"data.train.path={pictures}",
                f"evaluate.data.path={pictures}",
                "data.batch_size=8",
                "train.epochs=4",
                "train.lr=1e-2",
                *overrides,
            ],
            "",
        )
    )


def test_fine_tuning_on_other_classes_at_another_resolution(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = fine_tuned(run, pictures, tmp_path / "tuned", "optim.layer_decay=0.75", "train.epochs=6")
    assert results["top1"] == 1.0
    out = capsys.readouterr().out
    assert f"starting from {run} with a fresh classifier and positions resampled from 16 to 36" in out
    assert "blue" in (tmp_path / "tuned" / "report" / "per_class.csv").read_text()


def test_a_linear_classifier_on_a_frozen_backbone_taught_by_a_run(run: Path, pictures: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    fine_tuned(run, pictures, teacher, "train.epochs=1")
    student = tmp_path / "student"
    taught = ["distillation.teacher=vrwkv_tiny_patch16_224", f"distillation.checkpoint={teacher}"]
    fine_tuned(run, pictures, student, "model.trainable=head", "model.image_size=8", "train.epochs=1", *taught)
    before, after = load_file(run / "model.safetensors"), load_file(student / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in after if not name.startswith("head."))
    assert "teacher_loss" in (student / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["loss.mixupp=0.8"], "did you mean 'loss.mixup'"),
        (["data.repeat=2"], "did you mean 'data.repeats'"),
        (["model.architecture=vrwkv_tini_patch16_224"], "did you mean 'vrwkv_tiny_patch16_224'"),
        (["model.options={init_mod: fancy}"], "init_mod"),
        (["model.checkpoint=runs/nowhere"], "runs/nowhere does not exist"),
        (["model.num_classes=3"], "has 10 classes"),
        (["data.train.kind=folder"], "kind=folder needs a path"),
        (["data.train.kind=folder", "data.train.path=nowhere"], "image folder nowhere does not exist"),
        (["data.augmentation.auto_augment=rnd-m9"], "rnd-m9"),
        (["data.augmentation.scale=[1.0, 0.5]"], "augmentation.scale"),
        (["data.batch_size=33", "loss.cutmix=1.0"], "make that number even"),
        (["distillation.alpha=0.5"], "missing key 'distillation.teacher'"),
        (["distillation.teacher=resnet5000"], "distillation.teacher"),
        (["evaluate.data=null", "evaluate.resolutions=[8]"], "set evaluate.data"),
        (["evaluate.resolutions=[8, 1]"], "evaluate.resolutions must be at least a patch of the model, 2 pixels"),
        (["optim.layer_decay=2"], "layer_decay"),
        (["run.device=cuda:9"], "cuda"),
    ],
)
def test_mistakes_in_training_are_one_line(tmp_path: Path, overrides: list[str], said: str, mistake: Callable) -> None:
    arguments = [*NANO, "model.embed_dim=16", "model.depth=1", f"run.output={tmp_path / 'run'}", *overrides]
    assert said in mistake(train_classifier.main, arguments)
    assert not (tmp_path / "run").exists()


def test_mistakes_in_evaluation_are_one_line(run: Path, pictures: Path, tmp_path: Path, mistake: Callable) -> None:
    assert "nowhere" in mistake(eval_classifier.main, ["nowhere", "--data", "kind=digits"])
    weights = str(run / "model.safetensors")
    assert "give --data" in mistake(eval_classifier.main, [weights])
    assert "unknown key 'pat'" in mistake(eval_classifier.main, [weights, "--data", "pat=x"])
    (tmp_path / "other").mkdir()
    for label in ("one", "zero"):
        shutil.copytree(pictures / "red", tmp_path / "other" / label)
    other = ["--data", f"path={tmp_path / 'other'}"]
    assert "class 0 is 'one' there, 'zero' to the model" in mistake(eval_classifier.main, [weights, *other])
    small = [str(run), "--output", str(tmp_path / "early"), "--resolutions", "8", "1"]
    said = mistake(eval_classifier.main, small)
    assert "--resolutions must be at least a patch of the model, 2 pixels, got 1" in said
    assert not (tmp_path / "early").exists()
    assert "--test" in mistake(linear_probe.main, [weights, "--train", f"path={pictures}"])
    sets = ["--train", f"path={pictures}", "--test", "kind=digits"]
    assert "blue, red" in mistake(linear_probe.main, [weights, *sets])
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes((run / "model.safetensors").read_bytes()[:900])
    assert "safetensors" in mistake(eval_classifier.main, [str(broken), "--data", "kind=digits"])
