"""per_class.csv: accuracy and most common error of each class."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from vrwkv.atomic_write import atomic_write
from vrwkv.evaluate.classification import ClassScore


def write_class_table(rows: Sequence[ClassScore], path: Path) -> None:
    """Write the table as CSV with the columns class, samples, accuracy, most_common_error; absent values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "samples", "accuracy", "most_common_error"])
    for row in rows:
        accuracy = "" if row.accuracy is None else f"{row.accuracy:.6f}"
        writer.writerow([row.name, row.samples, accuracy, row.most_common_error or ""])
    atomic_write(path, text.getvalue())


def format_class_table(rows: Sequence[ClassScore], limit: int | None = None) -> str:
    """The table for a terminal; of more than `limit` classes, those with the lowest accuracy, worst first."""
    shown = list(rows)
    note = ""
    if limit is not None and len(shown) > limit:
        present = [row for row in shown if row.accuracy is not None]
        shown = sorted(present, key=lambda row: row.accuracy or 0.0)[:limit]
        note = f"\nthe {len(shown)} worst of {len(rows)} classes"
    width = max([5, *(len(row.name) for row in shown)])
    lines = [f"{'class':<{width}}  images  accuracy  taken most often for"]
    for row in shown:
        accuracy = "" if row.accuracy is None else f"{100 * row.accuracy:.2f} %"
        lines.append(f"{row.name:<{width}}  {row.samples:6d}  {accuracy:>8}  {row.most_common_error or ''}".rstrip())
    return "\n".join(lines) + note
