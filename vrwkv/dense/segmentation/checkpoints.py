"""Weights of whole segmentors, published or ours; and mmengine's checkpoints, read safely."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from torch import Tensor, nn

from vrwkv.dense.backbone_weights import absent_parts
from vrwkv.errors import InputError
from vrwkv.models.containers import read_state_dict
from vrwkv.models.published import checkpoint_filter_fn, from_published_names, load_strictly
from vrwkv.models.vision_rwkv import VisionRWKV
from vrwkv.training.weights import write_tensors

BACKBONE = "backbone."
_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]
_SCALAR: Any = np.float64(0).__reduce__()[0]


def load_segmentor(model: nn.Module, file: str | Path) -> None:
    """Fill a whole segmentor: from a run's model.safetensors, mmengine's checkpoints, or a published file.

    Positions are resized to the model's. Auxiliary heads, which serve training only, may be missing on either side.

    Raises:
        InputError: unreadable, or weights of another model; what does not fit is listed.
    """
    with safe_checkpoints():
        stored = read_state_dict(file)
    tensors = {name.removeprefix("module."): tensor for name, tensor in stored.items()}
    if isinstance(model.backbone, VisionRWKV):
        tensors = _own_backbone(model.backbone, tensors)
    own = model.state_dict()
    auxiliary = {name: tensor for name, tensor in own.items() if name.startswith("auxiliary_head.")}
    if not any(name.startswith("auxiliary_head.") for name in tensors):
        tensors |= auxiliary
    elif not auxiliary:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("auxiliary_head.")}
    load_strictly(model, tensors, str(file))


def save_segmentor(model: nn.Module, file: Path, config: str) -> None:
    """Write a segmentor's weights as safetensors, whole or not at all; `config` names its configuration."""
    write_tensors(model.state_dict(), file, {"format": "pt", "config": config})


@contextmanager
def safe_checkpoints() -> Iterator[None]:
    """Context in which `torch.load`, still with weights_only, reads mmengine's checkpoints.

    They hold averages of logged values (mmengine's class around numpy arrays) beside tensors, which torch 2.6 and later
    refuse by default. Nothing else becomes loadable, and only here.
    """
    dtypes = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.uint8, np.bool_)]
    with torch.serialization.safe_globals(
        [
            HistoryBuffer,
            (_statistic, "builtins.getattr"),
            np.ndarray,
            np.dtype,
            # NumPy 1 and 2 name the module differently; a file of either is read by both.
            *(
                (function, f"{module}.{function.__name__}")
                for module in ("numpy.core.multiarray", "numpy._core.multiarray")
                for function in (_RECONSTRUCT, _SCALAR)
            ),
            *dtypes,
        ]
    ):
        yield


def _statistic(owner: object, name: str) -> Any:
    """What `getattr` stands for in these files: one of the four averages of mmengine's logged values, nothing else."""
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise UnpicklingError(f"the file asks for {name!r} of {owner!r}, which no checkpoint of mmengine does")
    return getattr(owner, name)


def _own_backbone(backbone: VisionRWKV, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for the part below `backbone.`, positions resized."""
    inside = {name.removeprefix(BACKBONE): value for name, value in tensors.items() if name.startswith(BACKBONE)}
    if not inside:
        raise InputError(
            f"no weights below {BACKBONE!r}: a whole segmentor is needed, such as a run's model.safetensors"
        )
    translated = from_published_names(backbone, inside)
    translated = {name: value for name, value in translated.items() if not name.startswith(absent_parts(backbone))}
    translated = checkpoint_filter_fn(translated, backbone)
    rest = {name: value for name, value in tensors.items() if not name.startswith(BACKBONE)}
    return {**{BACKBONE + name: value for name, value in translated.items()}, **rest}
