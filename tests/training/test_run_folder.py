from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vrwkv.errors import InputError
from vrwkv.training.config import OptimConfig, RunConfig, TrainConfig
from vrwkv.training.run_folder import check_run_folder, prepare_run_folder


@dataclass
class Data:
    batch_size: int = 8
    num_workers: int = 0


@dataclass
class Config:
    run: RunConfig
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: Data = field(default_factory=Data)


def test_results_are_not_overwritten_unasked(tmp_path: Path) -> None:
    config = Config(RunConfig(str(tmp_path)))
    (tmp_path / "notes.txt").write_text("mine")
    assert prepare_run_folder(tmp_path, config) is None
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    said = r"already holds results \(config.yaml, metrics.jsonl\).*run.resume=true.*run.overwrite=true"
    with pytest.raises(InputError, match=said):
        prepare_run_folder(tmp_path, config)


def test_a_run_that_failed_before_its_first_step_is_not_in_the_way(tmp_path: Path) -> None:
    config = Config(RunConfig(str(tmp_path)))
    prepare_run_folder(tmp_path, config)
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "tensorboard").mkdir()
    assert prepare_run_folder(tmp_path, config) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


def test_overwriting_deletes_results_and_nothing_else(tmp_path: Path) -> None:
    for name in ("checkpoints/step_00000001/state.json", "report/index.html", "metrics.jsonl", "notes/mine.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    config = Config(RunConfig(str(tmp_path), overwrite=True))
    assert check_run_folder(tmp_path, config) is None
    assert (tmp_path / "metrics.jsonl").exists()
    prepare_run_folder(tmp_path, config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "notes"]


def test_resuming_finds_the_newest_checkpoint_or_starts_anew(tmp_path: Path) -> None:
    config = Config(RunConfig(str(tmp_path), resume=True))
    assert prepare_run_folder(tmp_path, config) is None
    for step in ("step_00000003", "step_00000020"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
        (tmp_path / "checkpoints" / step / "state.json").touch()
    (tmp_path / "checkpoints" / "step_00000030").mkdir()
    assert prepare_run_folder(tmp_path, config) == tmp_path / "checkpoints" / "step_00000020"


def test_resuming_with_another_configuration_names_the_first_key(tmp_path: Path) -> None:
    prepare_run_folder(tmp_path, Config(RunConfig(str(tmp_path))))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    resume = RunConfig(str(tmp_path), resume=True)
    for config, key in (
        (Config(resume, TrainConfig(lr=1.0), data=Data(16)), "train.lr"),
        (Config(resume, data=Data(batch_size=16)), "data.batch_size"),
        (Config(resume, optim=OptimConfig(betas=(0.9, 0.95))), "optim.betas"),
        (Config(RunConfig(str(tmp_path), resume=True, seed=1)), "run.seed"),
    ):
        with pytest.raises(InputError, match=f"cannot resume: '{key}' is"):
            prepare_run_folder(tmp_path, config)
    prepare_run_folder(tmp_path, Config(resume, TrainConfig(epochs=3, log_every=1), data=Data(num_workers=2)))


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(InputError, match="is a file"):
        prepare_run_folder(tmp_path / "run", Config(RunConfig(str(tmp_path / "run"))))
