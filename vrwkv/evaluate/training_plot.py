"""A run's loss over its steps, with accuracies and learning rate beneath where they were logged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vrwkv.figure import new_figure, save_figure

SMOOTH_FROM = 100
"""Number of points from which a running mean is drawn over the raw values."""
MARKED_BELOW = 30
"""Number of points from which accuracies are drawn without marks."""
ACCURACIES = {"top1": "held-out top-1", "top5": "held-out top-5", "train_top1": "training top-1"}
BLUE, ORANGE, GREEN = "#1f5fa8", "#d9730d", "#2e7d4f"


def draw_training(
    lines: Sequence[Mapping[str, Any]],
    path: Path,
    accuracies: Mapping[str, str] = ACCURACIES,
    *,
    accuracy_label: str = "accuracy, %",
    title: str = "Training",
    chance_loss: float | None = None,
) -> bool:
    """Draw the curves of a run into a PNG.

    Args:
        lines: of metrics.jsonl, each with "step".
        path: the PNG.
        accuracies: keys of fractions to draw, at most three, with their names for people.
        accuracy_label: of the axis of the fractions.
        title: above the loss.
        chance_loss: the loss of a model that guesses, drawn as a dashed line; for a contrastive loss ln(batch size).

    Returns:
        False, and nothing drawn, if no finite loss was logged.
    """
    steps, losses = curve(lines, "loss")
    if not len(steps):
        return False
    fractions = {name: curve(lines, key) for key, name in accuracies.items()}
    any_fractions = any(len(at_steps) for at_steps, _ in fractions.values())
    rate_steps, rates = curve(lines, "lr")
    heights = [3.0] + [2.0] * any_fractions + [1.2] * bool(len(rates))
    figure = new_figure(9, sum(heights) + 0.8)
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    _draw_loss(panels[0], steps, losses, chance_loss)
    panels[0].set_title(title, loc="left", fontsize=12, fontweight="bold")
    if any_fractions:
        _draw_fractions(panels[1], fractions)
        panels[1].set_ylabel(accuracy_label)
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


def curve(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one key, (P,) each; prefixes such as "evaluate/" before the key are accepted."""
    points = []
    for line in lines:
        for name, value in line.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name.rsplit("/", 1)[-1] == key and is_number and np.isfinite(value):
                points.append((line["step"], value))
                break
    steps_and_values = np.array(points, dtype=np.float64).reshape(-1, 2)
    return steps_and_values[:, 0], steps_and_values[:, 1]


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Means over every full window, (P - window + 1,); the ends, where a window would be cut, have none."""
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


def _draw_loss(panel: Any, steps: np.ndarray, losses: np.ndarray, chance_loss: float | None) -> None:
    """The loss, its running mean where there are many points, and that of guessing; a legend if there are several."""
    if len(steps) >= SMOOTH_FROM:
        window = len(steps) // 50 * 2 + 1
        panel.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=0.8, label="each logged step")
        smooth = running_mean(losses, window)
        centres = steps[window // 2 : window // 2 + len(smooth)]
        panel.plot(centres, smooth, color=BLUE, linewidth=2, label=f"mean of {window} around it")
    else:
        marker = "o" if len(steps) == 1 else ""
        panel.plot(steps, losses, color=BLUE, linewidth=1.8, marker=marker, label="training loss")
    if chance_loss is not None:
        panel.axhline(chance_loss, color="#777777", linestyle="--", linewidth=1.2, label="guessing")
    panel.set_ylabel("training loss")
    if len(panel.lines) > 1:
        panel.legend(loc="best", framealpha=0.9, edgecolor="none", fontsize=9)


def _draw_fractions(panel: Any, fractions: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Percentages, each with its own colour whether or not the others are there; few points are marked."""
    for (name, (steps, values)), color, shape in zip(fractions.items(), (BLUE, ORANGE, GREEN), "osD", strict=False):
        if len(steps):
            marker = shape if len(steps) < MARKED_BELOW else ""
            panel.plot(steps, 100 * values, color=color, marker=marker, markersize=4, label=name)
    panel.set_ylim(-3, 103)
    panel.legend(loc="best", framealpha=0.8, edgecolor="none", fontsize=9)
