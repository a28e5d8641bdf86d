"""The rules of a run folder: results are never overwritten unasked, and a run resumes only as what it was."""

import fnmatch
import os
import shutil
from pathlib import Path
from typing import Any

from vrwkv.errors import InputError
from vrwkv.training.checkpoint import latest_checkpoint
from vrwkv.training.config_fields import flatten_config
from vrwkv.training.configuration import config_to_yaml, load_config

# What a run may have written; nothing else in the folder counts as a result or is ever deleted.
RESULTS = (
    "config.yaml",
    "metrics.jsonl",
    "model.safetensors",
    "config.json",
    "results.json",
    "checkpoints",
    "report",
    "tensorboard",
)

# Keys that may change between a run and its continuation: they do not touch the course of the training, except for
# train.epochs, with which the schedule stretches to the new length from the resumed step on.
FREE_KEYS = (
    "run.output",
    "run.device",
    "run.resume",
    "run.overwrite",
    "train.epochs",
    "train.log_every",
    "train.save_every",
    "train.keep_checkpoints",
    "train.evaluate_every",
    "train.grad_checkpointing",
    "data.num_workers",
    "evaluate.*",
    "report.*",
)


def results_in(folder: Path) -> list[str]:
    """What a run left in `folder` that must not be lost: nothing, where it failed before its first logged step."""
    present = [name for name in RESULTS if (folder / name).exists()]
    traces = {"config.yaml", "tensorboard"}
    if (folder / "metrics.jsonl").is_file() and (folder / "metrics.jsonl").stat().st_size == 0:
        traces.add("metrics.jsonl")
    return present if set(present) - traces else []


def check_run_folder(run_folder: str | Path, config: Any) -> Path | None:
    """Decide how a run starts in its folder; changes nothing.

    Args:
        run_folder: the folder, which need not exist.
        config: the whole configuration, with a section `run`.

    Returns:
        The checkpoint to continue from, None for a start from the beginning.

    Raises:
        InputError: results are there and neither `run.resume` nor `run.overwrite` is set, or the run to resume was
            started with another configuration (keys of `FREE_KEYS` apart).
    """
    folder = Path(run_folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"the run folder '{folder}' (run.output) is a file")
    results = results_in(folder)
    if not results or config.run.overwrite:
        return None
    if not config.run.resume:
        raise InputError(
            f"the run folder '{folder}' already holds results ({', '.join(results)}): continue with run.resume=true, "
            "replace them with run.overwrite=true, or choose another run.output"
        )
    if (folder / "config.yaml").is_file():
        _check_same_config(folder / "config.yaml", config)
    return latest_checkpoint(folder)


def prepare_run_folder(run_folder: str | Path, config: Any) -> Path | None:
    """`check_run_folder`, then delete what `run.overwrite` gives up and write `config.yaml`.

    Returns:
        The checkpoint to continue from, None for a start from the beginning.
    """
    folder = Path(run_folder)
    checkpoint = check_run_folder(folder, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if config.run.overwrite or not results_in(folder):
            _delete_results(folder)
        temporary = folder / ".config.yaml.tmp"
        temporary.write_text(config_to_yaml(config), encoding="utf-8")
        os.replace(temporary, folder / "config.yaml")
    except OSError as error:
        raise InputError(f"cannot write to the run folder '{folder}' (run.output): {error}") from None
    return checkpoint


def _check_same_config(file: Path, config: Any) -> None:
    before = dict(flatten_config(load_config(type(config), file)))
    now = dict(flatten_config(config))
    for key in [*now, *(key for key in before if key not in now)]:
        if before.get(key) != now.get(key) and not any(fnmatch.fnmatchcase(key, pattern) for pattern in FREE_KEYS):
            raise InputError(
                f"cannot resume: '{key}' is {now.get(key)!r} but {file} has {before.get(key)!r}; give it that value "
                "again, or start a new run in another run.output"
            )


def _delete_results(folder: Path) -> None:
    for name in RESULTS:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
