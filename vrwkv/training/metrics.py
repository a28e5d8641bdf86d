"""The run's curves: `metrics.jsonl`, one JSON object a line, and TensorBoard where it is installed."""

import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsLog:
    """Appends lines to `metrics.jsonl` and scalars to TensorBoard event files in `tensorboard/`.

    Args:
        folder: the run folder.
        resume_step: number of finished steps that the run starts with; later lines, which an interrupted run wrote
            before it lost those steps, are dropped, so that the file stays one clean curve.
    """

    def __init__(self, folder: str | Path, resume_step: int = 0) -> None:
        self.path = Path(folder) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._truncate(resume_step)
        self._stream = self.path.open("a", encoding="utf-8")
        self._tensorboard = _tensorboard_writer(Path(folder) / "tensorboard", resume_step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the values of a step. A number that is not finite is written as null, which JSON has."""
        line = {"step": step, **{key: _json_number(value) for key, value in values.items()}}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()
        if self._tensorboard is not None:
            for key, value in values.items():
                if isinstance(value, (int, float)) and key != "epoch":
                    self._tensorboard.add_scalar(key, value, step)

    def close(self) -> None:
        """Flush and close the files."""
        self._stream.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _truncate(self, resume_step: int) -> None:
        kept = [json.dumps(line) + "\n" for line in read_metrics(self.path.parent) if line["step"] <= resume_step]
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, self.path)


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`; a last line that a crash cut short is left out. No file, no lines."""
    path = Path(folder) / "metrics.jsonl"
    lines: list[dict[str, Any]] = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines


def evaluated_steps(folder: str | Path) -> set[int]:
    """The steps after which `metrics.jsonl` has an evaluation: a line without `loss`."""
    return {line["step"] for line in read_metrics(folder) if "loss" not in line}


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tensorboard_writer(folder: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        warnings.warn("tensorboard is not installed: curves go to metrics.jsonl only", stacklevel=3)
        return None
    return SummaryWriter(str(folder), purge_step=resume_step + 1)
