"""results.json of a run folder: numbers of all its evaluations as fractions, and their table for the terminal."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrwkv.atomic_write import atomic_write
from vrwkv.errors import InputError

FILE_NAME = "results.json"
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


def with_skipped(run_folder: Path, numbers: Mapping[str, Any], what: str, count: int) -> dict[str, Any]:
    """`numbers` and, under "skipped", how many of `what` could not be read, beside what was recorded earlier."""
    earlier = read_results(run_folder).get("skipped")
    return {**numbers, "skipped": {**(earlier if isinstance(earlier, dict) else {}), what: count}}


def format_skipped(skipped: Any) -> str:
    """What was skipped on one line, whether it was recorded as a number, a text, a list or a mapping."""
    if isinstance(skipped, Mapping):
        return ", ".join(f"{name} {value}" for name, value in skipped.items())
    if isinstance(skipped, list):
        return ", ".join(str(value) for value in skipped)
    return " ".join(str(skipped).split())


@dataclass(frozen=True)
class ResultNames:
    """The keys of one kind of results, in the order of their table, each with its name for people."""

    fractions: Mapping[str, str]
    counts: Mapping[str, str]
    shows_skipped: bool = False
    """Whether the table ends with what could not be read."""

    def write(self, run_folder: Path, results: Mapping[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
        """Merge new results into the run folder's results.json, atomically; other keys keep their values.

        Args:
            run_folder: the folder.
            results: new values by key.
            without: keys whose earlier values go.

        Floats are rounded to six decimals, finer than one sample in half a million. Values may be numbers (torch and
        numpy scalars too), strings, None, lists and mappings.

        Returns:
            All results, as they now stand in the file.

        Raises:
            InputError: the run folder does not exist, or holds a results.json that cannot be read.
            ValueError: a fraction outside 0..1 (percentages are the usual mistake), or a value that is not finite.
        """
        merged = {key: value for key, value in read_results(run_folder).items() if key not in without}
        for key, value in results.items():
            plain = _plain(key, value)
            if key in self.fractions and plain is not None and not 0 <= plain <= 1:
                raise ValueError(f"{key} must be a fraction between 0 and 1, got {plain}")
            merged[key] = plain
        atomic_write(Path(run_folder) / FILE_NAME, json.dumps(merged, indent=2, allow_nan=False) + "\n")
        return merged

    def format(self, results: Mapping[str, Any]) -> str:
        """A text table: the fractions as percentages, a line each, accuracy by resolution, then the counts."""
        percentages = {name: results.get(key) for key, name in self.fractions.items()}
        for size, accuracy in (results.get("resolution_top1") or {}).items():
            percentages[f"top-1 at {size} pixels"] = accuracy
        counts = {name: results.get(key) for key, name in self.counts.items()}
        lines = [f"{name:<28}{100 * value:6.2f} %" for name, value in percentages.items() if value is not None]
        lines += [f"{name:<28}{value:6d}" for name, value in counts.items() if value is not None]
        if self.shows_skipped and results.get("skipped"):
            lines.append(f"{'skipped':<28}{format_skipped(results['skipped'])}")
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


_CLASSIFIER = ResultNames(
    fractions={
        "top1": "top-1 accuracy",
        "top5": "top-5 accuracy",
        "mean_per_class": "mean per class",
        "linear_probe_top1": "linear probe top-1",
        "knn_top1": "k-NN top-1",
    },
    counts={"samples": "images"},
)
write_results, format_results = _CLASSIFIER.write, _CLASSIFIER.format
