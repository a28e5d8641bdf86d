"""Lets mmsegmentation be imported where mmcv has no compiled operators (mmcv-lite).

mmsegmentation 1.x imports `mmcv.ops` for two functions of heads that most configurations do not have, and `mmcv.ops`
looks its compiled operators up when it is imported. Importing this module answers for them. mmcv's operators in plain
torch then work as they are; a compiled one raises an error that says so when it is called.
"""

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

EXTENSION = "mmcv._ext"


def _operator(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(
            f"mmcv's compiled operator {name} was called, and this mmcv has none: install the full mmcv for your torch "
            "and CUDA, or leave out the part of the configuration that needs it"
        )

    return missing


def answer_for_compiled_operators() -> bool:
    """Put a module in the place of mmcv's compiled operators unless they are there; whether that was needed."""
    if EXTENSION in sys.modules:
        return isinstance(sys.modules[EXTENSION], _Missing)
    try:
        importlib.import_module(EXTENSION)
    except ModuleNotFoundError as error:
        if error.name != EXTENSION:
            raise
        module = _Missing(EXTENSION)
        # Without a loader, mmengine sees that full mmcv is not installed.
        module.__spec__ = ModuleSpec(EXTENSION, None)
        sys.modules[EXTENSION] = module
        return True
    return False


class _Missing(ModuleType):
    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        return _operator(name)


answer_for_compiled_operators()
