"""torch.export programs: the graph of a model in standard operators, from which the other formats are made."""

import json
import operator
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vrwkv.export.errors import ExportFailure
from vrwkv.export.tower import Tower

STANDARD_NAMESPACES = frozenset({"aten", "prim", "prims", "sym_size"})
ARITHMETIC_MODULES = frozenset({operator.__name__, "_operator", "math", "torch"})
METADATA_FILE = "metadata.json"


def export_program(tower: Tower) -> ExportedProgram:
    """Trace a tower for all its sizes.

    Raises:
        ExportFailure: the graph holds an operator that a process without vrwkv would not know.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(tower.module, (tower.example(),), dynamic_shapes=tower.dynamic_shapes())
    if foreign := foreign_operators(program):
        raise ExportFailure(f"the exported graph holds operators outside the standard: {', '.join(foreign)}")
    return program


def foreign_operators(program: ExportedProgram) -> list[str]:
    """Names of the operators in a program that torch itself does not have."""
    found = set()
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            if node.op != "call_function":
                continue
            if isinstance(node.target, torch._ops.OpOverload):
                standard = node.target.namespace in STANDARD_NAMESPACES
            else:  # arithmetic on symbolic sizes, and torch's own higher-order operators
                standard = isinstance(node.target, torch._ops.HigherOrderOperator) or (
                    node.target.__module__ in ARITHMETIC_MODULES
                )
            if not standard:
                found.add(str(node.target))
    return sorted(found)


def save_program(program: ExportedProgram, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a program; `torch.export.load(path).module()` runs it wherever torch is installed.

    Args:
        program: what to write.
        path: the file.
        metadata: goes into it as the extra file `METADATA_FILE`, a JSON object.
    """
    content = json.dumps(dict(metadata or {}), ensure_ascii=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path, extra_files={METADATA_FILE: content})


def load_program(path: Path) -> Callable[[Tensor], Tensor]:
    """The file as a function."""
    return torch.export.load(path).module()
