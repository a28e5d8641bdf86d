"""Compile all CPU kernels now instead of when they are first used: `python -m vrwkv.ops.cpu_runtime.precompile`.

For images of containers, whose file system may be read-only later, and for whoever does not want to wait in the middle
of something. Compiled kernels are cached beside the package, or in NUMBA_CACHE_DIR.
"""

import importlib
import logging
import pkgutil
import time

import vrwkv.ops
from vrwkv.ops.cpu_runtime.kernel import Kernel


def find_kernels() -> list[Kernel]:
    """Every compiled loop of the package, in the order of their modules' names."""
    found: list[Kernel] = []
    for module in pkgutil.walk_packages(vrwkv.ops.__path__, "vrwkv.ops."):
        if module.name.rpartition(".")[2].startswith("cpu") and not module.ispkg:
            contents = vars(importlib.import_module(module.name)).values()
            found += [item for item in contents if isinstance(item, Kernel) and item not in found]
    return found


def main() -> None:
    """Compile what is not in the cache; one line for each kernel that is compiled, and a sum."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.perf_counter()
    kernels = find_kernels()
    for kernel in kernels:
        kernel.compile()
    print(f"{len(kernels)} CPU kernels are ready ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
