"""The folder that a converted checkpoint lives in: ours to load, with what is needed to go back."""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vrwkv.errors import InputError
from vrwkv.models.conversion import Conversion, Record
from vrwkv.training.weights import read_tensors, write_tensors

WEIGHTS, CONFIG, RECORD, OTHER_PARTS = "model.safetensors", "config.json", "published.json", "other_parts.safetensors"


def check_output(output: Path) -> None:
    """Raise an InputError where `output` would overwrite something."""
    if output.is_dir() and any(output.iterdir()):
        raise InputError(f"the folder {output} is not empty: choose another --output or remove it")
    if output.exists() and not output.is_dir():
        raise InputError(f"the file {output} exists already: choose another --output or remove it")


def write_folder(
    output: Path,
    conversion: Conversion,
    config: Mapping[str, Any],
    source: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a converted checkpoint; the folder appears only when it is complete.

    Args:
        output: a folder that does not exist or is empty.
        conversion: the weights and the record.
        config: content of config.json.
        source: what is known of the published file, kept beside the record.
        metadata: texts for the header of the weights.

    Raises:
        InputError: the folder cannot be written.
    """
    check_output(output)
    staging = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        staging.mkdir(parents=True)
        write_tensors(conversion.tensors, staging / WEIGHTS, metadata)
        if conversion.other_parts:
            write_tensors(conversion.other_parts, staging / OTHER_PARTS)
        record = {**source, **dataclasses.asdict(conversion.record)}
        (staging / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (staging / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if output.is_dir():
            output.rmdir()
        os.replace(staging, output)
    except OSError as error:
        raise InputError(f"cannot write the folder {output}: {error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_folder(folder: Path) -> Conversion | None:
    """The converted checkpoint in a folder; None where the folder has weights but no record of a published file.

    Raises:
        InputError: no weights there, or damaged files.
    """
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder} holds no {WEIGHTS}: --to published takes a folder that was converted before")
    if not (folder / RECORD).is_file():
        return None
    other_parts = read_tensors(folder / OTHER_PARTS)[0] if (folder / OTHER_PARTS).is_file() else {}
    record = Record.from_json(read_json(folder / RECORD))
    return Conversion(read_tensors(folder / WEIGHTS)[0], other_parts, record)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises InputError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object")
    return content


def write_published(output: Path, state_dict: dict[str, Tensor], container: str | None) -> None:
    """Write a state dict as released files have it: a pickle with the container's key, or .safetensors.

    Raises:
        InputError: the file exists or cannot be written.
    """
    check_output(output)
    if output.is_dir():
        raise InputError(f"{output} is a folder: --to published writes a file such as {output / 'weights.pth'}")
    try:
        if output.suffix == ".safetensors":
            write_tensors(state_dict, output)
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
        try:
            torch.save(state_dict if container is None else {"meta": {}, container: state_dict}, temporary)
            os.replace(temporary, output)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error}") from None
