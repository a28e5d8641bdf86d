"""mmengine configurations: read, overridden from the command line, and fitted to the machine."""

import os
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from vrwkv.errors import InputError
from vrwkv.training.configuration import find_config

RUNNER_KEYS = frozenset(signature(Runner).parameters) | {
    *("auto_scale_lr", "find_unused_parameters", "sync_bn", "compile", "model_wrapper_cfg", "tta_model"),
    *("tta_pipeline", "custom_imports", "runner_type", "env_cfg", "cudnn_benchmark"),
}
"""What mmengine reads at the top of a configuration, whether or not a file has it."""


def load_segmentor_config(file: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A configuration file, or the recipe of that name that came with the package, with `key=value` overrides.

    Raises:
        InputError: no such file, a mistake in it, or an override of a key that there is not.
    """
    path = find_config(file)
    try:
        config = Config.fromfile(path)
    except (OSError, SyntaxError, KeyError, TypeError, ValueError, ImportError) as error:
        raise InputError(f"cannot read {path}: {_reason(error)}") from error
    if "model" not in config:
        raise InputError(f"{path} has no `model`: a segmentor's configuration of mmsegmentation 1.x is needed")
    config.merge_from_dict(dict(_override(config, each) for each in overrides))
    return config


def fit_to_machine(config: Config) -> list[str]:
    """Adapt launcher, precision and process group to where the program runs; what was changed, for the user.

    Under torchrun, mmengine's launcher is "pytorch". Without a GPU, mixed precision is left out (mmengine has it for
    accelerators only), batch norms are not synchronised and processes talk through gloo.
    """
    changes = []
    config.launcher = "pytorch" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "none"
    if not torch.cuda.is_available():
        wrapper: Any = config.get("optim_wrapper") or {}
        if wrapper.get("type") == "AmpOptimWrapper":
            wrapper.type = "OptimWrapper"
            for key in ("loss_scale", "dtype"):
                wrapper.pop(key, None)
            changes.append("no GPU: training in float32 instead of mixed precision")
        config.pop("sync_bn", None)
        config.merge_from_dict({"env_cfg": {"dist_cfg": {"backend": "gloo"}}})
    return changes


def dicts_of_type(config: Any, *types: str) -> Iterator[dict[str, Any]]:
    """Every dict in a configuration whose `type` is one of these, the outer ones first."""
    if isinstance(config, Mapping):
        if config.get("type") in types:
            yield config  # type: ignore[misc]
        for value in config.values():
            yield from dicts_of_type(value, *types)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from dicts_of_type(value, *types)


def _override(config: Config, override: str) -> tuple[str, Any]:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise InputError(f"{override!r} is no setting: write key=value, such as train_cfg.max_iters=1000")
    node: Any = config._cfg_dict
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if isinstance(node, list | tuple):
            if not part.isdigit() or int(part) >= len(node):
                raise InputError(f"{key}: {'.'.join(parts[:depth])} is a list with places 0 to {len(node) - 1}")
            node = node[int(part)]
        elif isinstance(node, Mapping):
            _require_key(node, part, key, depth)
            node = node.get(part)
        elif depth and node is not None:
            raise InputError(f"{key}: {'.'.join(parts[:depth])} is {node!r} and has no parts")
    return key, DictAction._parse_iterable(text)


def _require_key(node: Mapping[str, Any], part: str, key: str, depth: int) -> None:
    """What is built from a dict with a type judges its arguments itself; other keys must be there.

    At the top, only what mmengine reads counts: a variable that the file made other settings of has done its work.
    """
    known = sorted(RUNNER_KEYS) if depth == 0 else [*node]
    if part in known or (depth and ("type" in node or not node)):
        return
    near = get_close_matches(part, known, 1, 0.0)
    meant = ".".join([*key.split(".")[:depth], near[0]])
    problem = "has no effect, it only helps to write the file" if part in node else "is unknown"
    raise InputError(f"the key {key!r} {problem}; did you mean {meant!r}?")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
