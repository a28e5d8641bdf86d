"""training.png: a run's loss, accuracy and learning rate over its steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vrwkv.figure import new_figure, save_figure

ACCURACIES = {"top1": "held-out top-1", "top5": "held-out top-5", "train_top1": "training top-1"}
BLUE, ORANGE, GREEN = "#1f5fa8", "#d9730d", "#2e7d4f"


def draw_training(lines: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Draw the curves of a run into a PNG.

    Args:
        lines: of metrics.jsonl, each with "step".
        path: the PNG.

    Returns:
        False, and nothing drawn, if no finite loss was logged.
    """
    steps, losses = _curve(lines, "loss")
    if not len(steps):
        return False
    accuracies = {key: points for key in ACCURACIES if len((points := _curve(lines, key))[0])}
    rate_steps, rates = _curve(lines, "lr")
    heights = [3.0] + [2.0] * bool(accuracies) + [1.2] * bool(len(rates))
    figure = new_figure(9, sum(heights) + 0.8)
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    panels[0].plot(steps, losses, color=BLUE, linewidth=1.6, marker="o" if len(steps) == 1 else "")
    panels[0].set_ylabel("training loss")
    panels[0].set_title("Training", loc="left", fontsize=12, fontweight="bold")
    for (key, (at_steps, fractions)), color in zip(accuracies.items(), (BLUE, ORANGE, GREEN), strict=False):
        few = len(at_steps) < 30
        panels[1].plot(
            at_steps, 100 * fractions, color=color, marker="o" if few else "", markersize=4, label=ACCURACIES[key]
        )
    if accuracies:
        panels[1].set_ylim(-3, 103)
        panels[1].set_ylabel("accuracy, %")
        panels[1].legend(loc="best", framealpha=0.8, edgecolor="none", fontsize=9)
    if len(rates):
        panels[-1].plot(rate_steps, rates, color="#555555", linewidth=1.5, marker="o" if len(rates) == 1 else "")
        panels[-1].set_ylabel("learning rate")
        panels[-1].set_ylim(bottom=0)
        panels[-1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    for panel in panels:
        panel.grid(color="#e3e3e3", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.align_ylabels()
    save_figure(figure, path)
    return True


def _curve(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one key, (P,) each."""
    points = [
        (line["step"], line[key]) for line in lines if isinstance(line.get(key), int | float) and np.isfinite(line[key])
    ]
    values = np.array(points, dtype=np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]
