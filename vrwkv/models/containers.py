"""Reading checkpoint files: safetensors or weights-only pickles, and the containers that training codes wrap them in."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vrwkv.errors import InputError

_YACS_NODE = "yacs.config.CfgNode"


class _PlainConfig(dict):  # type: ignore[type-arg]
    """Stands in for a pickled yacs config: its keys and values, none of its code."""


class _RefusedConfig:
    """Stands in for a pickled yacs config wherever it has not been asked for: says what to do instead."""

    def __new__(cls, *args: Any) -> "_RefusedConfig":
        raise InputError("this checkpoint holds a pickled yacs config; load it with vrwkv.load_published(model, path)")


# Without this, torch refuses such files with a page about pickles; with it, in one line. Nothing more is allowed.
torch.serialization.add_safe_globals([(_RefusedConfig, _YACS_NODE)])


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
    path = Path(source)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return unwrap(load_file(path), use_ema)
        with torch.serialization.safe_globals([(_PlainConfig, _YACS_NODE)]):
            return unwrap(torch.load(path, map_location="cpu", weights_only=True), use_ema)
    except InputError as error:
        raise InputError(f"checkpoint {path}: {error}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"checkpoint {path} cannot be read as weights: {reason}") from None
    except Exception as error:
        if type(error).__name__ == "SafetensorError":
            raise InputError(f"checkpoint {path} is not a valid safetensors file: {error}") from None
        raise


def unwrap(container: Mapping[str, Any], use_ema: bool = True) -> dict[str, Tensor]:
    """The state dict inside a container of mmcv ({'meta', 'state_dict'}), internimage, MAE ({'model'}), or itself.

    Raises:
        InputError: there is none.
    """
    keys = ["state_dict", "model"]
    if use_ema:
        keys = ["model_ema", "state_dict_ema", *keys]
    for key in keys:
        if isinstance(container.get(key), Mapping):
            container = container[key]
            break
    tensors = {name: value for name, value in container.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) != len(container):
        strange = [str(name) for name, value in container.items() if not isinstance(value, Tensor)]
        raise InputError(f"holds no state dict; expected tensors by name, found {', '.join(strange[:5]) or 'nothing'}")
    return tensors
