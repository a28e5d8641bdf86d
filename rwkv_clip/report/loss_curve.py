"""loss.png: the training curves of an image-text model, from metrics.jsonl."""

import json
from pathlib import Path
from typing import Any

from rwkv_clip.evaluate.results import FRACTIONS
from vrwkv.errors import InputError
from vrwkv.evaluate.training_plot import draw_training

HEADLINES = {key: FRACTIONS[key] for key in ("zero_shot_top1", "i2t_r1", "t2i_r1")}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl that carry a "step". A last line cut short by a crash is left out.

    Raises:
        InputError: a broken line before the last, named by its number.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise InputError(f"{path} line {number} is not valid JSON; remove the line or the file") from None
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records


def draw_loss(records: list[dict[str, Any]], path: Path, chance_loss: float | None = None) -> bool:
    """Draw the curves of `read_metrics` into a PNG (`vrwkv.evaluate.training_plot.draw_training`)."""
    return draw_training(
        records, path, HEADLINES, accuracy_label="held-out, %", title="Training loss", chance_loss=chance_loss
    )
