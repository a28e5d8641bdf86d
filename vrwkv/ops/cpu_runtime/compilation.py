"""Compiles a loop, or takes it from the cache on disk if none of the sources that it is made of has changed.

numba's cache looks at the file of the loop alone; the functions that are compiled into it come from others.
"""

import hashlib
import inspect
import logging
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba.core import types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

_log = logging.getLogger("vrwkv")


@cache
def fingerprint(folder: Path) -> str:
    """A hash of what the loops in a folder are made of: its own compiled sources and those of this package."""
    sources = [*folder.glob("cpu*.py"), *Path(__file__).parent.glob("*.py")]
    found = hashlib.sha256()
    for source in sorted(sources):
        found.update(source.name.encode() + b"\0" + source.read_bytes())
    return found.hexdigest()


class _SourceCache(FunctionCache):  # type: ignore[misc]
    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        folder = Path(inspect.getfile(self._py_func)).parent
        return (*super()._index_key(sig, codegen), fingerprint(folder))


class _Callback(CFunc):  # type: ignore[misc]
    def enable_caching(self) -> None:
        self._cache = _SourceCache(self._pyfunc)


def compile_cached(body: Callable[..., None]) -> CFunc:
    """`body(first, last, arguments)` of three int64 as a C function; `cache_hits` is 0 if it had to be compiled."""
    signature = (types.int64,) * 3, types.void
    options = {"error_model": "numpy", "fastmath": {"contract", "nsz"}}
    compiled = _Callback(body, signature, {}, options)
    try:
        compiled.enable_caching()
    except RuntimeError:  # numba found no folder that it may write to
        _log.warning("compiled kernels cannot be kept: set NUMBA_CACHE_DIR to a folder that can be written to")
    try:
        compiled.compile()
    except (EOFError, ImportError, AttributeError, ValueError, pickle.UnpicklingError) as error:
        # A file of the cache is damaged, say by a disk that was full: numba reads it and does not look.
        _log.warning("a cached kernel cannot be read (%s) and is compiled anew: %s", error, compiled._cache.cache_path)
        compiled._cache.flush()
        compiled = _Callback(body, signature, {}, options)
        compiled.enable_caching()
        compiled.compile()
    return compiled
