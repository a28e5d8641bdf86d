"""Training, evaluation and probing with images of different sizes packed into batches."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vrwkv.commands import eval_classifier, linear_probe, train_classifier
from vrwkv.commands.classifier_evaluation import evaluation_loader
from vrwkv.data import LabelledDataConfig, build_labelled_source
from vrwkv.objectives.classifier import load_classifier

SETTINGS = [
    "model.architecture=vrwkv_tiny_patch16_224",
    "model.image_size=16",
    "model.patch_size=4",
    "model.max_tokens=24",
    "model.embed_dim=32",
    "model.depth=2",
    "model.drop_path_rate=0.1",
    "data.batch_size=20",
    "data.augmentation.scale=[0.6,1.0]",
    "loss.mixup=0.1",
    "loss.cutmix=0.1",
    "loss.mix_probability=0.3",
    "train.epochs=12",
    "train.lr=5e-3",
    "train.evaluate_every=0",
    "train.save_every=6",
    "train.keep_checkpoints=9",
    "schedule.warmup_steps=4",
]


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes along or across images of many sizes and shapes, with noise."""
    folder, generator = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 24)):
        for label, name in enumerate(("across", "along")):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                height, width = generator.integers(6, 45, 2)
                lines = np.arange(width if label else height) // 3 % 2 * 120
                picture = np.broadcast_to(lines if label else lines[:, None], (height, width))
                noisy = picture[..., None] + generator.integers(0, 80, (height, width, 3))
                Image.fromarray(noisy.astype(np.uint8)).save(folder / part / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def run(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native") / "run"
    train_classifier.main([*SETTINGS, *data(stripes), f"run.output={folder}"])
    return folder


def data(stripes: Path) -> list[str]:
    return [f"data.train.path={stripes / 'train'}", f"evaluate.data.path={stripes / 'test'}"]


def test_it_learns(run: Path) -> None:
    assert json.loads((run / "results.json").read_text())["top1"] > 0.9


def test_resuming_changes_no_bit(run: Path, tmp_path: Path) -> None:
    resumed = tmp_path / "resumed"
    shutil.copytree(run, resumed)
    for path in sorted((resumed / "checkpoints").iterdir())[1:]:
        shutil.rmtree(path)
    for name in ("model.safetensors", "results.json"):
        (resumed / name).unlink()
    train_classifier.main(["--config", str(resumed / "config.yaml"), f"run.output={resumed}", "run.resume=true"])
    before, after = load_file(run / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_evaluation_packs_as_training_did(run: Path, stripes: Path) -> None:
    classifier = load_classifier(run)
    assert classifier.image.max_tokens == 24
    assert classifier.image.patch_size == (4, 4)
    source = build_labelled_source(LabelledDataConfig(path=str(stripes / "test")))
    batch = next(iter(evaluation_loader(classifier, source, 48, num_workers=2)))
    assert len({image.shape for image in batch["image"]}) > 10
    with torch.no_grad():
        together = classifier.model(batch["image"])
        alone = torch.cat([classifier.model(image[None]) for image in batch["image"]])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6 * alone.abs().max().item())


def test_commands_on_a_trained_model(run: Path, stripes: Path, tmp_path: Path) -> None:
    train, test = f"path={stripes / 'train'}", f"path={stripes / 'test'}"
    linear_probe.main([str(run), "--train", train, "--test", test, "--k", "5", "--output", str(tmp_path)])
    assert json.loads((tmp_path / "results.json").read_text())["linear_probe_top1"] > 0.9
    eval_classifier.main([str(run), "--data", test, "--max-tokens", "100", "--output", str(tmp_path)])
    larger = json.loads((tmp_path / "results.json").read_text())["top1"]
    eval_classifier.main([str(run), "--data", test, "--resolutions", "16", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert larger > 0.8
    assert set(results["resolution_top1"]) == {"16"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.max_tokens=0"], "model.max_tokens must be positive, got 0"),
        (
            ["model.architecture=resnet18", "model.patch_size=null", "model.embed_dim=null", "model.depth=null"],
            "ResNet",
        ),
        (["loss.mix_mode=elem"], "loss.mix_mode must be batch"),
    ],
)
def test_what_cannot_be_packed_is_refused(
    stripes: Path, tmp_path: Path, mistake: Callable, arguments: list[str], message: str
) -> None:
    given = [*SETTINGS, *data(stripes), *arguments, f"run.output={tmp_path / 'run'}"]
    assert message in mistake(train_classifier.main, given)
    assert not (tmp_path / "run").exists()
