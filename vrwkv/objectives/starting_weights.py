"""Weights to start from: a run of our own, a published file or a timm checkpoint, learnt at whatever resolution."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.models import VisionRWKV
from vrwkv.models.containers import read_state_dict
from vrwkv.models.published import checkpoint_filter_fn, load_strictly


def weights_file(path: str | Path) -> Path:
    """The weights of a run folder; a file as it is. Raises InputError if there are none."""
    path = Path(path)
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{path} does not exist: name a run folder or a file of weights")
        return path
    if not (path / "model.safetensors").is_file():
        raise InputError(f"{path} holds no model.safetensors; has its training finished (run.resume=true goes on)?")
    return path / "model.safetensors"


def load_starting_weights(model: Any, source: str | Path) -> str:
    """Fill a classifier from a checkpoint; positions and patches are resampled to the model's own.

    The model keeps its fresh classifier where that of the checkpoint is missing or has another shape, as for another
    number of classes. Everything else must fit.

    Args:
        model: any model of timm; a `VisionRWKV` also takes published names.
        source: a run folder (its model.safetensors), or a file of weights.

    Returns:
        What was done, in words.

    Raises:
        InputError: no such file, unreadable, or weights that do not fit.
    """
    file = weights_file(source)
    stored = read_state_dict(file)
    tensors = _adapted(model, stored)
    own = model.state_dict()
    heads = classifier_prefixes(model)
    notes = []
    fresh = [name for name in own if name.startswith(heads) and _shape(tensors, name) != own[name].shape]
    if fresh:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(heads)}
        tensors |= {name: tensor for name, tensor in own.items() if name.startswith(heads)}
        notes.append("a fresh classifier")
    positions = next((tensor for name, tensor in stored.items() if name.endswith("pos_embed")), None)
    if positions is not None and "pos_embed" in own and positions.shape != own["pos_embed"].shape:
        notes.append(f"positions resampled from {positions.shape[1]} to {own['pos_embed'].shape[1]}")
    load_strictly(model, tensors, str(file))
    return f"{source}" + (f" with {' and '.join(notes)}" if notes else "")


def load_as_stored(model: Any, file: Path) -> None:
    """Fill a model with all of a file, its classifier included: the model gets as many classes as the file has.

    Raises:
        InputError: unreadable, or weights that do not fit.
    """
    tensors = _adapted(model, read_state_dict(file))
    weights = [tensor for name, tensor in tensors.items() if name.startswith(classifier_prefixes(model))]
    num_classes = max((len(tensor) for tensor in weights if tensor.ndim), default=0)
    if num_classes != model.num_classes:
        model.reset_classifier(num_classes)
    load_strictly(model, tensors, str(file))


def classifier_prefixes(model: Any) -> tuple[str, ...]:
    """What the names of the parameters begin with whose shape depends on the number of classes."""
    if isinstance(model, VisionRWKV):
        return ("head.2.",) if isinstance(model.head, nn.Sequential) else ("head.",)
    names = model.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _adapted(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes of the model, by the filter that its family in timm has for pretrained weights."""
    own = model.state_dict()
    if own.keys() == tensors.keys() and all(own[name].shape == tensor.shape for name, tensor in tensors.items()):
        return dict(tensors)
    if isinstance(model, VisionRWKV):
        return checkpoint_filter_fn(dict(tensors), model)
    family_filter = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return family_filter(dict(tensors), model) if family_filter is not None else dict(tensors)


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tensors[name].shape if name in tensors else None
