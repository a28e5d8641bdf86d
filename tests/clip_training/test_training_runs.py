"""Whole runs of the training command on the scanned digits, small enough for a test."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import rwkv_clip
from rwkv_clip.commands.train import train
from rwkv_clip.config import ClipConfig
from vrwkv.training.configuration import load_config

ROOT = Path(__file__).parents[2]
NANO = ROOT / "configs" / "clip" / "digits_nano.yaml"
TINY = [
    "model.embed_dim=32",
    "model.image.embed_dim=32",
    "model.image.depth=1",
    "model.text.depth=1",
    "model.text.num_heads=1",
    "data.batch_size=256",
    "train.epochs=1",
    "schedule.warmup_steps=1",
    "train.evaluate_every=0",
    "train.log_every=1",
]


def command(*overrides: str, processes: int = 1) -> subprocess.CompletedProcess:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
    program = [str(ROOT / "tools" / "train_clip.py"), "--config", str(NANO), *TINY, *overrides]
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *program],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=600,
    )


@pytest.mark.parametrize("loss", [["loss=clip"], ["loss=siglip", "model.init_bias=-5"]], ids=["clip", "siglip"])
def test_two_processes_train_what_one_process_trains(tmp_path: Path, loss: list[str]) -> None:
    # float64 arithmetic is not offered for training; a plain optimiser keeps float32 rounding from being blown up.
    same = [*loss, "optim.name=sgd", "train.lr=0.5", "model.image.drop_path_rate=0"]
    for processes in (1, 2):
        finished = command(*same, f"run.output={tmp_path / str(processes)}", processes=processes)
        assert finished.returncode == 0, finished.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "2"))
    start = rwkv_clip.create_model(load_config(ClipConfig, NANO, [*TINY, *loss, "run.output=x"]).model).state_dict()
    assert one.keys() == two.keys() == start.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], rtol=1e-5, atol=1e-5), name
    assert not torch.allclose(one["text.norm.weight"], start["text.norm.weight"], atol=1e-3)
    for ours, theirs in zip(losses(tmp_path / "1"), losses(tmp_path / "2"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def losses(run_folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def learn(folder: Path, *overrides: str) -> dict[str, float]:
    settings = [
        f"run.output={folder}",
        "model.embed_dim=64",
        "model.image.embed_dim=64",
        "model.image.depth=2",
        "model.text.depth=1",
        "model.text.num_heads=1",
        "train.epochs=9",
        "train.lr=3e-3",
        "train.evaluate_every=0",
    ]
    return train(load_config(ClipConfig, NANO, [*settings, *overrides]))


def test_a_run_learns_and_its_folder_holds_all_of_it(tmp_path: Path) -> None:
    results = learn(tmp_path / "run")
    assert results["zero_shot_top1"] > 0.6
    assert results["t2i_r1"] > 0.6
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    for name in ("config.yaml", "model.safetensors", "metrics.jsonl", "report/index.html", "report/confusion.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0, name
    model, preprocess, tokenizer = rwkv_clip.load(tmp_path / "run")
    assert not model.training
    assert tokenizer(["a four"]).shape == (1, 16)
    assert preprocess.transforms[0].size in (8, (8, 8))


def test_with_shuffled_captions_there_is_nothing_to_learn(tmp_path: Path) -> None:
    results = learn(tmp_path / "control", "data.train.shuffle_captions=true")
    # Ten classes: chance is 0.1, and four standard deviations on 359 images are 0.063.
    assert results["zero_shot_top1"] < 0.1 + 0.063 + 0.05
    assert results["zero_shot_mean_per_class"] < 0.22


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs" / "clip").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_builds_its_model(recipe: Path) -> None:
    config = load_config(ClipConfig, recipe)
    with torch.device("meta"):
        model = rwkv_clip.create_model(config.model)
    size = config.model.image.image_size
    features = model.encode_image(torch.empty(2, 3, size, size, device="meta"))
    ids = torch.zeros(2, config.model.text.context_length, dtype=torch.long, device="meta")
    assert features.shape == model.encode_text(ids).shape == (2, config.model.embed_dim)
    if recipe.stem == "rwkv_clip_b32":
        assert sum(parameter.numel() for parameter in model.parameters()) == 149_561_601
