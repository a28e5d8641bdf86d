"""ONNX files: standard operators only, with named sizes that may vary."""

import importlib.util
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vrwkv.errors import InputError
from vrwkv.export.errors import ExportFailure
from vrwkv.export.tower import Tower

OLDEST_OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_onnx(opset: int) -> None:
    """Raise an InputError unless the ONNX packages are installed and know `opset`."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{name} is not installed: pip install 'vrwkv[export]'")
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if opset < OLDEST_OPSET:
        raise InputError(
            f"--opset {opset} is too old: the exporter writes {OLDEST_OPSET} or newer (up to {newest}), "
            f"and onnxruntime runs {OLDEST_OPSET} since version 1.14"
        )
    if opset > newest:
        raise InputError(f"--opset {opset} does not exist yet for the installed onnx, which knows up to {newest}")


def write_onnx(program: ExportedProgram, tower: Tower, path: Path, opset: int = OLDEST_OPSET) -> None:
    """Write a program as one ONNX file, weights and the tower's metadata included.

    Raises:
        InputError: a package is missing, or the exporter cannot write `opset`.
        ExportFailure: the file would need operators outside the standard.
    """
    check_onnx(opset)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter reports every operator that it looks up
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = torch.onnx.export(
                program,
                (tower.example(),),
                dynamo=True,
                opset_version=opset,
                verbose=False,
                input_names=[tower.input_name],
                output_names=[tower.output_name],
                dynamic_shapes=tower.dynamic_shapes(),
            )
    finally:
        logging.disable(level)
    assert converted is not None
    model = converted.model
    if model.opset_imports[""] != opset:
        raise InputError(f"--opset {opset} is not one the exporter can write; it offers {model.opset_imports['']}")
    if foreign := {node.domain for node in model.graph} - {""}:
        raise ExportFailure(f"the ONNX file needs operators outside the standard: {', '.join(sorted(foreign))}")
    model.metadata_props.update(tower.metadata)
    converted.save(path, external_data=False)


def load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """The file as a function, run by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda tensor: torch.from_numpy(session.run(None, {name: tensor.numpy()})[0])
