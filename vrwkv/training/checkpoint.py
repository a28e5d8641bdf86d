"""Checkpoints: atomic folders `RUN/checkpoints/step_00000123/` of safetensors and JSON, no pickles.

model.safetensors       the weights, under the bare model's names
ema.safetensors         their moving average, where one is kept
optimizer.safetensors   the optimiser's tensors, `state/<parameter>/<key>`
state.json              step, groups of the optimiser, loss scaler, what the loop adds
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vrwkv.errors import InputError
from vrwkv.training.optimizer_state import flatten_optimizer, restore_optimizer
from vrwkv.training.weights import load_weights, read_tensors, save_weights, write_tensors

_FORMAT = 1
_STEP_FOLDER = re.compile(r"step_(\d{8,})")


def checkpoint_folder(run_folder: str | Path) -> Path:
    """Where a run keeps its checkpoints."""
    return Path(run_folder) / "checkpoints"


def list_checkpoints(run_folder: str | Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folder = checkpoint_folder(run_folder)
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _STEP_FOLDER.fullmatch(path.name) and (path / "state.json").is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def latest_checkpoint(run_folder: str | Path) -> Path | None:
    """The newest complete checkpoint of a run, None if it has none."""
    checkpoints = list_checkpoints(run_folder)
    return checkpoints[-1] if checkpoints else None


def save_checkpoint(
    run_folder: str | Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    ema: nn.Module | None = None,
    scaler: torch.amp.GradScaler | None = None,
    extra: Mapping[str, Any] | None = None,
    keep: int = 2,
) -> Path:
    """Write a checkpoint; a crash at any moment leaves the older ones whole and no half-written one in their place.

    Args:
        run_folder: the run.
        step: number of finished steps.
        model: wrapped or not.
        optimizer: over the model's parameters.
        ema: the model that holds the averaged weights.
        scaler: loss scaling of fp16.
        extra: JSON-ready values of the caller's.
        keep: number of newest checkpoints to keep, at least 1.

    Returns:
        The checkpoint's folder.
    """
    folder = checkpoint_folder(run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    final = folder / f"step_{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    temporary.mkdir()
    save_weights(model, temporary / "model.safetensors")
    if ema is not None:
        save_weights(ema, temporary / "ema.safetensors")
    tensors, plain = flatten_optimizer(model, optimizer)
    write_tensors(tensors, temporary / "optimizer.safetensors")
    state = {
        "format": _FORMAT,
        "step": step,
        "torch": torch.__version__,
        "extra": dict(extra or {}),
        "scaler": scaler.state_dict() if scaler is not None else None,
        "optimizer": plain,
    }
    with (temporary / "state.json").open("w", encoding="utf-8") as stream:
        json.dump(state, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    _discard(final)
    os.rename(temporary, final)
    _sync_folder(folder)
    for old in list_checkpoints(run_folder)[:-keep]:
        _discard(old)
    return final


def load_checkpoint(
    checkpoint: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    ema: nn.Module | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[int, dict[str, Any]]:
    """Restore what `save_checkpoint` wrote, strictly.

    Returns:
        The number of finished steps and the `extra` values.

    Raises:
        InputError: an unreadable checkpoint, or one of another architecture, optimiser or precision.
    """
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the checkpoint '{checkpoint}': {error}") from None
    if state.get("format") != _FORMAT:
        raise InputError(f"checkpoint '{checkpoint}' has format {state.get('format')}, this version reads {_FORMAT}")
    load_weights(model, checkpoint / "model.safetensors")
    if ema is not None:
        if not (checkpoint / "ema.safetensors").is_file():
            raise InputError(f"checkpoint '{checkpoint}' holds no averaged weights: train.ema_decay was off")
        load_weights(ema, checkpoint / "ema.safetensors")
    if optimizer is not None:
        tensors, _ = read_tensors(checkpoint / "optimizer.safetensors")
        restore_optimizer(model, optimizer, tensors, state["optimizer"], str(checkpoint))
    if scaler is not None:
        if state["scaler"] is None:
            raise InputError(f"checkpoint '{checkpoint}' holds no loss scale: it was not trained in fp16")
        scaler.load_state_dict(state["scaler"])
    return state["step"], state["extra"]


def _discard(checkpoint: Path) -> None:
    """Remove a checkpoint; renamed first, so that none is ever seen half removed."""
    if checkpoint.exists():
        doomed = checkpoint.with_name(f".{checkpoint.name}.old.tmp")
        os.rename(checkpoint, doomed)
        shutil.rmtree(doomed)


def _sync_folder(folder: Path) -> None:
    """Make the renames in a folder last through a power cut, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
