"""One call from a tower to a checked file."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vrwkv.errors import InputError
from vrwkv.export.aot_inductor import check_compiler, export_for_packages, load_package, write_package
from vrwkv.export.errors import ExportFailure
from vrwkv.export.onnx_file import OLDEST_OPSET, check_onnx, load_onnx, write_onnx
from vrwkv.export.parity import Difference, compare_with_eager, format_differences
from vrwkv.export.progress import Stages
from vrwkv.export.quantize import QuantizationCost, quantization_cost, quantize_linear_layers
from vrwkv.export.torch_program import export_program, load_program, save_program
from vrwkv.export.tower import Tower

SUFFIXES: dict[str, str] = {"onnx": ".onnx", "torch_export": ".pt2", "aoti": ".pt2"}
WRITING = {"onnx": "converting to ONNX", "torch_export": "writing the program", "aoti": "compiling with AOTInductor"}
"""What making a file is called while it lasts."""


@dataclass(frozen=True)
class Exported:
    """What became of an export.

    Attributes:
        differences: of the float file from eager.
        costs: what int8 changes, by the name of the inputs; empty without quantisation.
        size: of the file, in bytes.
        quantized_layers: how many layers hold int8.
    """

    differences: list[Difference]
    costs: dict[str, QuantizationCost]
    size: int
    quantized_layers: int = 0


def check_request(file_format: str, output: Path, opset: int = OLDEST_OPSET, quantize: str | None = None) -> None:
    """Refuse what cannot work before a model is built.

    Raises:
        InputError: unknown format, a name that does not fit it, a folder that cannot be written, quantisation that the
            format does not have, an opset that the exporter cannot write, a missing package or compiler.
    """
    if file_format not in SUFFIXES:
        raise InputError(f"--format must be one of {', '.join(SUFFIXES)}, not {file_format!r}")
    if quantize not in (None, "int8"):
        raise InputError(f"--quantize must be int8, not {quantize!r}")
    if quantize is not None and file_format != "onnx":
        raise InputError(f"--quantize {quantize} exists for --format onnx only, not for {file_format}")
    if output.suffix != SUFFIXES[file_format]:
        raise InputError(f"--output {output} must end in {SUFFIXES[file_format]} for --format {file_format}")
    if output.is_dir():
        raise InputError(f"--output {output} is a folder; name a file in it")
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: the folder {output.parent} does not exist")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise InputError(f"--output {output}: the folder {output.parent} is not writable")
    if file_format == "onnx":
        check_onnx(opset)
    if file_format == "aoti":
        check_compiler()


def write_checked(
    tower: Tower,
    file_format: str,
    output: Path,
    *,
    opset: int = OLDEST_OPSET,
    quantize: str | None = None,
    seed: int = 0,
    quantization_inputs: dict[str, Tensor] | None = None,
    progress: Callable[[str], object] | None = None,
) -> Exported:
    """Export a tower and compare the file with eager; `output` appears only if they agree.

    Args:
        tower: what to export.
        file_format: "onnx", "torch_export" or "aoti".
        output: the file; an existing one is replaced.
        opset: of an ONNX file.
        quantize: "int8" for int8 weights in an ONNX file.
        seed: of the inputs that the file is compared on.
        quantization_inputs: by name, what the cost of int8 is measured on.
        progress: takes a line as each stage begins and ends, see `Stages`; by default nothing is said.

    Raises:
        InputError: see `check_request`.
        ExportFailure: the file disagrees with eager by more than 1e-4, or holds operators outside the standard.
    """
    check_request(file_format, output, opset, quantize)
    stages = Stages(3 if quantize is None else 4, progress)
    with _temporary(output) as draft, _temporary(output, "int8") as quantized:
        with stages.stage(f"tracing {tower.metadata.get('architecture', 'the model')}"):
            program = export_for_packages(tower) if file_format == "aoti" else export_program(tower)
        with stages.stage(WRITING[file_format]):
            if file_format == "onnx":
                write_onnx(program, tower, draft, opset)
            elif file_format == "aoti":
                write_package(program, draft, tower.metadata)
            else:
                save_program(program, draft, tower.metadata)
        load: Callable[[Path], Callable[[Tensor], Tensor]] = {
            "onnx": load_onnx,
            "aoti": load_package,
            "torch_export": load_program,
        }[file_format]
        with stages.stage("comparing with the model"):
            exported = load(draft)
            differences = compare_with_eager(tower, exported, seed)
        if not all(difference.acceptable for difference in differences):
            raise ExportFailure(
                f"{output} was not written: the exported file disagrees with eager\n{format_differences(differences)}"
            )
        if quantize is None:
            draft.replace(output)
            return Exported(differences, {}, output.stat().st_size)
        with stages.stage("quantising, and measuring what it costs"):
            layers = quantize_linear_layers(draft, tower.module, quantized)
            computed = load_onnx(quantized)
            costs = {
                name: quantization_cost(exported, computed, inputs)
                for name, inputs in (quantization_inputs or {}).items()
            }
        quantized.replace(output)
        return Exported(differences, costs, output.stat().st_size, layers)


@contextmanager
def _temporary(output: Path, part: str = "draft") -> Iterator[Path]:
    """A neighbour of `output` with the same ending, gone afterwards."""
    path = output.with_name(f".{output.stem}.{part}.{os.getpid()}{output.suffix}")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
