"""AOTInductor packages: a program compiled into a shared library for this kind of processor."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vrwkv.errors import InputError
from vrwkv.export.torch_program import export_program
from vrwkv.export.tower import Tower
from vrwkv.ops.exporting import chunks_of

CHUNK = 64
"""Tokens in a chunk: decays up to 30 are exact from 32 tokens on, and 16384 tokens (2048 pixels) need 258 chunks."""


def check_compiler() -> None:
    """Raise an InputError where no C++ compiler is found; Inductor looks in $CXX and for g++ and clang++."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError):
        raise InputError(
            "--format aoti needs a C++ compiler and found none: install g++ or clang++, or name one in CXX; "
            "onnx and torch_export need none"
        ) from None


def export_for_packages(tower: Tower) -> ExportedProgram:
    """Trace a tower in a form that Inductor compiles in a minute or two; see `vrwkv.ops.exporting.chunks_of`.

    Raises:
        ExportFailure: as `export_program`.
    """
    with chunks_of(CHUNK):
        return export_program(tower)


def write_package(program: ExportedProgram, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Compile a program into `path`, which must end in .pt2.

    Args:
        program: from `export_for_packages`.
        path: the file.
        metadata: what `aoti_load_package(path).get_metadata()` will answer, beside torch's own entries.

    Raises:
        InputError: there is no C++ compiler.
    """
    check_compiler()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={"aot_inductor.metadata": dict(metadata or {})},  # a copy: torch adds to it
        )


def load_package(path: Path) -> Callable[[Tensor], Tensor]:
    """The file as a function."""
    return torch._inductor.aoti_load_package(str(path))
