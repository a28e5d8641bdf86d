"""Reading checkpoint files: safetensors or weights-only pickles, and the containers that wrap their state dicts."""

import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vrwkv.errors import InputError

_reads_configs: ContextVar[bool] = ContextVar("reads_configs", default=False)


class _PickledConfig:
    """Stands in for a pickled yacs config: its keys and values while we read, one line on what to do for anyone else.

    torch keeps its allowed globals in a set, so one name must not have two stand-ins; and it fills plain dictionaries
    only, so what is made here is one.
    """

    def __new__(cls, *args: Any) -> OrderedDict[str, Any]:  # type: ignore[misc]
        if _reads_configs.get():
            return OrderedDict()
        raise InputError("this checkpoint holds a pickled yacs config; load it with vrwkv.load_published(model, path)")


# Without this, torch refuses such files with a page about pickles; with it, in one line. Nothing more is allowed.
torch.serialization.add_safe_globals([(_PickledConfig, "yacs.config.CfgNode")])

# A best score that a training loop noted beside the weights is often a numpy scalar: a number with its dtype.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS = [
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "float16", "int64", "int32", "bool")),
]

# torch's own switches; it refuses to start when both are on.
_ONLY_WEIGHTS, _NOT_ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextmanager
def old_containers() -> Iterator[None]:
    """Within it, torch also reads what released containers hold, yacs configs and numpy's numbers, as plain data.

    Reading is weights-only whatever the caller asks for (older versions of timm ask for less), so that no code of a
    file is run.
    """
    before = {name: os.environ.pop(name, None) for name in (_ONLY_WEIGHTS, _NOT_ONLY_WEIGHTS)}
    os.environ[_ONLY_WEIGHTS] = "1"
    token = _reads_configs.set(True)
    try:
        with torch.serialization.safe_globals(_NUMBERS):  # type: ignore[arg-type]
            yield
    finally:
        _reads_configs.reset(token)
        os.environ.pop(_ONLY_WEIGHTS, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


def read_state_dict(source: str | Path | Mapping[str, Any], use_ema: bool = True) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name.

    Args:
        source: path of a .safetensors file or a torch pickle (read with weights_only=True; a yacs config inside is read
            as plain data), or a loaded container or state dict.
        use_ema: prefer averaged weights where the container has them.

    Raises:
        InputError: no such file, unreadable, or no state dict inside.
    """
    if isinstance(source, Mapping):
        return unwrap(source, use_ema)
    return unwrap(read_container(source), use_ema, f"checkpoint {source}")


def read_container(source: str | Path) -> Any:
    """Everything in a checkpoint file, read as `read_state_dict` does.

    Raises:
        InputError: no such file, or unreadable.
    """
    path = Path(source)
    if not path.is_file():
        raise InputError(f"checkpoint {path} {'is a folder, not a file' if path.is_dir() else 'does not exist'}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"checkpoint {path} is not a readable safetensors file: {error}") from None
    try:
        with old_containers():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The readers of the two pickle formats raise whatever a damaged byte leads them to.
        raise InputError(f"checkpoint {path} cannot be read as weights: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The one line that matters of an error of `torch.load`, which explains pickles at length."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it holds {found[1]}, and only tensors and plain data are read; save the state dict alone"
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def unwrap(container: Mapping[str, Any], use_ema: bool = True, where: str = "the checkpoint") -> dict[str, Tensor]:
    """The state dict inside a container of mmcv ({'meta', 'state_dict'}), internimage, MAE ({'model'}), or itself.

    Args:
        container: what a checkpoint file holds.
        use_ema: prefer averaged weights where the container has them.
        where: what the container is called in an error.

    Raises:
        InputError: there is none.
    """
    return find_state_dict(container, use_ema, where)[1]


def find_state_dict(
    container: Mapping[str, Any], use_ema: bool = True, where: str = "the checkpoint"
) -> tuple[str | None, dict[str, Tensor]]:
    """As `unwrap`, with the key of the container that the state dict stood under; None for a bare one."""
    if not isinstance(container, Mapping):
        raise InputError(f"{where} holds no state dict; expected tensors by name, found a {type(container).__name__}")
    keys = ["state_dict", "model"]
    if use_ema:
        keys = ["model_ema", "state_dict_ema", *keys]
    found = next((key for key in keys if isinstance(container.get(key), Mapping) and container[key]), None)
    state_dict = container if found is None else container[found]
    strange = [
        str(name) for name, value in state_dict.items() if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if strange or not state_dict:
        listed = ", ".join(strange[:5]) or "nothing"
        raise InputError(f"{where} holds no state dict; expected tensors by name, found {listed}")
    return found, dict(state_dict)
