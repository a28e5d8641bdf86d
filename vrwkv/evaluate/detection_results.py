"""The numbers of a detector in results.json, and its table of classes."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from vrwkv.atomic_write import atomic_write
from vrwkv.evaluate.results import ResultNames

DETECTION = ResultNames(
    fractions={
        "box_ap": "box AP",
        "box_ap50": "box AP50",
        "box_ap75": "box AP75",
        "mask_ap": "mask AP",
        "mask_ap50": "mask AP50",
        "mask_ap75": "mask AP75",
    },
    counts={"images": "images", "parameters": "parameters"},
    shows_skipped=True,
)


def write_precision_table(
    class_names: Sequence[str], precisions: Mapping[str, Sequence[float | None]], path: Path
) -> None:
    """Write a CSV with the columns class and `{kind}_ap` for each kind; empty where a class has no object.

    Args:
        class_names: of the rows.
        precisions: of each kind ("box", "mask"), in the order of the classes.
        path: the file.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *(f"{kind}_ap" for kind in precisions)])
    for name, *values in zip(class_names, *precisions.values(), strict=True):
        writer.writerow([name, *("" if value is None else f"{value:.6f}" for value in values)])
    atomic_write(path, text.getvalue())
