"""results.json of a run folder: the numbers of all its evaluations, as fractions, and their table for the terminal."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vrwkv.atomic_write import atomic_write
from vrwkv.errors import InputError

FILE_NAME = "results.json"
FRACTIONS = {
    "zero_shot_top1": "zero-shot top-1 accuracy",
    "zero_shot_top5": "zero-shot top-5 accuracy",
    "zero_shot_mean_per_class": "zero-shot mean per class",
    "i2t_r1": "image to text R@1",
    "i2t_r5": "image to text R@5",
    "i2t_r10": "image to text R@10",
    "t2i_r1": "text to image R@1",
    "t2i_r5": "text to image R@5",
    "t2i_r10": "text to image R@10",
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

    Floats are rounded to six decimals, finer than one sample in half a million. Values may be numbers (torch and numpy
    scalars too), strings, None, lists and mappings.

    Returns:
        All results, as they now stand in the file.

    Raises:
        InputError: the run folder does not exist, or holds a results.json that cannot be read.
        ValueError: a fraction outside 0..1 (percentages are the usual mistake), or a value that is not finite.
    """
    merged = read_results(run_folder)
    for key, value in results.items():
        plain = _plain(key, value)
        if key in FRACTIONS and plain is not None and not 0 <= plain <= 1:
            raise ValueError(f"{key} must be a fraction between 0 and 1, got {plain}")
        merged[key] = plain
    atomic_write(Path(run_folder) / FILE_NAME, json.dumps(merged, indent=2, allow_nan=False) + "\n")
    return merged


def format_results(results: Mapping[str, Any]) -> str:
    """A text table of the fractions as percentages, a line each, then sample counts and what was skipped."""
    lines = [
        f"{name:<28}{100 * results[key]:6.2f} %" for key, name in FRACTIONS.items() if results.get(key) is not None
    ]
    if results.get("zero_shot_samples") is not None:
        lines.append(f"{'zero-shot images':<28}{results['zero_shot_samples']:6d}")
    for key, name in (("retrieval_images", "retrieval images"), ("retrieval_captions", "distinct captions")):
        if results.get(key) is not None:
            lines.append(f"{name:<28}{results[key]:6d}")
    if results.get("skipped"):
        lines.append(f"{'skipped':<28}{format_skipped(results['skipped'])}")
    return "\n".join(lines) if lines else "no results yet"


def format_skipped(skipped: Any) -> str:
    """What was skipped on one line, whether it was recorded as a number, a text, a list or a mapping."""
    if isinstance(skipped, Mapping):
        return ", ".join(f"{name} {value}" for name, value in skipped.items())
    if isinstance(skipped, list):
        return ", ".join(str(value) for value in skipped)
    return " ".join(str(skipped).split())


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
