"""confusion.png: which class is taken for which, shaded by the share of the true class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from vrwkv.errors import InputError
from vrwkv.figure import new_figure, save_figure

ANNOTATE_UP_TO = 20
"""Number of classes up to which every cell shows its count."""
NAME_UP_TO = 80
"""Number of classes up to which every class is named; beyond, evenly spread ones are."""


def draw_confusion(confusion: Tensor, class_names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix of counts (C, C), row = true class, column = predicted class, into a PNG.

    A cell's shade is its share of the row, so that classes of different size can be compared; a class without samples
    has an empty row.

    Raises:
        InputError: the matrix does not fit the class names.
    """
    counts = confusion.cpu().numpy()
    num_classes = len(class_names)
    if counts.shape != (num_classes, num_classes) or not num_classes:
        raise InputError(f"a confusion matrix of shape {counts.shape} does not fit {num_classes} class names")
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    annotate = num_classes <= ANNOTATE_UP_TO
    names = [_shorten_middle(name) for name in class_names]
    label_room = 0.075 * max(map(len, names))  # inches that the longest class name takes
    cell = 0.52 if annotate else max(0.16, 7 / num_classes) if num_classes <= NAME_UP_TO else 8 / num_classes
    side = max(2.6, cell * num_classes)

    figure = new_figure(side + label_room + 1.7, side + label_room + 1.1)
    axes = figure.subplots()
    shades = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if annotate:
        count_size = 9 if counts.max() < 10_000 else 6.5
        for row, column in np.ndindex(counts.shape):
            if counts[row, column]:
                color = "white" if shares[row, column] > 0.55 else "#222222"
                axes.text(
                    column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=count_size
                )
    step = -(-num_classes // NAME_UP_TO)
    shown = range(0, num_classes, step)
    font_size = 10 if annotate else 7
    labels = [names[index] for index in shown]
    # Class names are text, never mathematics, even with dollar signs in them.
    slanted = max(map(len, names)) > 4 or not annotate
    axes.set_xticks(shown, labels, fontsize=font_size, parse_math=False, rotation=90 if not annotate else 45 * slanted)
    if annotate and slanted:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(shown, labels, fontsize=font_size, parse_math=False)
    if annotate:
        axes.set_xticks(np.arange(num_classes + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#e6e6e6", linewidth=0.8)
        axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    correct = int(np.trace(counts))
    title = f"Confusion matrix: {correct:,} of {int(counts.sum()):,} right"
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    bar = figure.colorbar(shades, ax=axes, fraction=0.046, pad=0.02, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.ax.set_yticklabels(["0 %", "25 %", "50 %", "75 %", "100 %"], fontsize=9)
    bar.set_label("share of the true class", fontsize=9)
    save_figure(figure, path)


def _shorten_middle(name: str, width: int = 26) -> str:
    """Long class names often differ only at the end, so both ends are kept."""
    name = " ".join(name.split())
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-(width // 2) :]}"
