"""results.json of a classifier's run folder: numbers of all its evaluations as fractions, and their table."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vrwkv.atomic_write import atomic_write
from vrwkv.errors import InputError

FILE_NAME = "results.json"
FRACTIONS = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_per_class": "mean per class",
    "linear_probe_top1": "linear probe top-1",
    "knn_top1": "k-NN top-1",
}
"""Keys that hold fractions, in the order of the table, with their names for people."""
DECIMALS = 6


def read_results(run_folder: Path) -> dict[str, Any]:
    """The results so far; empty if there are none yet.

    Raises:
        InputError: the run folder does not exist, or its results.json is not a JSON object.
    """
    run_folder = Path(run_folder)
    if not run_folder.is_dir():
        raise InputError(f"run folder {run_folder} does not exist")
    path = run_folder / FILE_NAME
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); move it away and evaluate again") from None
    if not isinstance(results, dict):
        raise InputError(f"{path} must hold a JSON object, found a {type(results).__name__}")
    return results


def write_results(run_folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Merge new results into the run folder's results.json, atomically; other keys keep their values.

    Returns:
        All results, as they now stand in the file, floats rounded to six decimals.

    Raises:
        InputError: the run folder does not exist, or holds a results.json that cannot be read.
        ValueError: a value that is not finite.
    """
    merged = {**read_results(run_folder), **{key: _plain(key, value) for key, value in results.items()}}
    atomic_write(Path(run_folder) / FILE_NAME, json.dumps(merged, indent=2, allow_nan=False) + "\n")
    return merged


def format_results(results: Mapping[str, Any]) -> str:
    """A text table: the fractions as percentages, a line each, accuracy by resolution, then how many images."""
    lines = [
        f"{name:<28}{100 * results[key]:6.2f} %" for key, name in FRACTIONS.items() if results.get(key) is not None
    ]
    for size, accuracy in (results.get("resolution_top1") or {}).items():
        lines.append(f"{f'top-1 at {size} pixels':<28}{100 * accuracy:6.2f} %")
    if results.get("samples") is not None:
        lines.append(f"{'images':<28}{results['samples']:6d}")
    return "\n".join(lines) if lines else "no results yet"


def _plain(key: str, value: Any) -> Any:
    """The value in JSON's own types, floats rounded."""
    if isinstance(value, Mapping):
        return {str(name): _plain(f"{key}.{name}", entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(key, entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{key} must be finite, got {value}")
        return round(value, DECIMALS)
    return value
