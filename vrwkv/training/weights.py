"""Weights as safetensors files: the names are the bare model's, whatever wrapped it, and loading is strict."""

import os
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.training.distributed import unwrap_model


def bare_state_dict(model_or_state_dict: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict with the names of the bare model: no trace of DDP or torch.compile. The tensors are not copied."""
    if isinstance(model_or_state_dict, nn.Module):
        state = dict(unwrap_model(model_or_state_dict).state_dict())
    else:
        state = dict(model_or_state_dict)
        if state and all(name.startswith("module.") for name in state):
            state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}


def save_weights(
    model_or_state_dict: nn.Module | Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write weights to a safetensors file, atomically. Tied tensors stand in it under each of their names.

    Args:
        model_or_state_dict: a model, wrapped or not, or its state dict.
        path: the file; it appears only when it is complete.
        metadata: texts for the file's header.
    """
    write_tensors(bare_state_dict(model_or_state_dict), Path(path), metadata)


def load_weights(model: nn.Module, path: str | Path) -> dict[str, str]:
    """Load a safetensors file into a model of exactly this architecture.

    Returns:
        The metadata of the file's header.

    Raises:
        InputError: no such file, not safetensors, or other names or shapes than the model's.
    """
    tensors, metadata = read_tensors(Path(path))
    load_state(model, tensors, str(path))
    return metadata


def load_state(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors with bare names into a model, wrapped or not; `source` names where they came from in the error.

    Raises:
        InputError: keys that are missing, unexpected or of another shape, counted, the first three of each named.
    """
    bare = unwrap_model(model)
    own = {name.replace("_orig_mod.", ""): (name, tensor) for name, tensor in bare.state_dict().items()}
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    reshaped = [
        f"{name} {_shape(tensor)} instead of {_shape(own[name][1])}"
        for name, tensor in tensors.items()
        if name in own and tensor.shape != own[name][1].shape
    ]
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if problems:
        raise InputError(f"{source} does not fit {type(bare).__name__}: keys {'; '.join(problems)}")
    bare.load_state_dict({own[name][0]: tensor for name, tensor in tensors.items()})


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors to a safetensors file through a temporary file in the same folder.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        safetensors.torch.save_file(_separate(tensors), temporary, metadata={"format": "pt", **(metadata or {})})
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except safetensors.SafetensorError as error:
        raise OSError(f"cannot write '{path}': {error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and header metadata of a safetensors file.

    Raises:
        InputError: no such file, or not safetensors.
    """
    if not path.is_file():
        raise InputError(f"weights file '{path}' not found")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"'{path}' is not a readable safetensors file: {error}") from None


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU that share no memory, as safetensors asks for."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        copy = tensor.detach().to("cpu").contiguous()
        storage = copy.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != copy.numel() * copy.element_size():
            copy = copy.clone(memory_format=torch.contiguous_format)
        seen.add(copy.untyped_storage().data_ptr())
        separate[name] = copy
    return separate


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(str(size) for size in tensor.shape)})"
