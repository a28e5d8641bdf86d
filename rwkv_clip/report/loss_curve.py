"""loss.png: loss over steps from metrics.jsonl, with accuracies and learning rate beneath where they were logged."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_clip.evaluate.results import FRACTIONS
from vrwkv.errors import InputError
from vrwkv.figure import new_figure, save_figure

SMOOTH_FROM = 100
"""Number of points from which a running mean is drawn over the raw values."""
HEADLINES = ("zero_shot_top1", "i2t_r1", "t2i_r1")
BLUE, ORANGE, GREEN = "#1f5fa8", "#d9730d", "#2e7d4f"


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


def curve(records: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one key, (P,) each; prefixes such as "evaluate/" before the key are accepted."""
    points = []
    for record in records:
        for name, value in record.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name.rsplit("/", 1)[-1] == key and is_number and np.isfinite(value):
                points.append((record["step"], value))
                break
    steps_and_values = np.array(points, dtype=np.float64).reshape(-1, 2)
    return steps_and_values[:, 0], steps_and_values[:, 1]


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Means over every full window, (P - window + 1,); the ends, where a window would be cut, have none."""
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


def draw_loss(records: list[dict[str, Any]], path: Path, chance_loss: float | None = None) -> bool:
    """Draw the curves into a PNG.

    Args:
        records: as `read_metrics` returns them.
        path: the PNG.
        chance_loss: the loss of a model that guesses, drawn as a dashed line; for a contrastive loss ln(batch size).

    Returns:
        False, and nothing drawn, if no finite loss was logged.
    """
    steps, losses = curve(records, "loss")
    if not len(steps):
        return False
    accuracies = {key: curve(records, key) for key in HEADLINES}
    accuracies = {key: points for key, points in accuracies.items() if len(points[0])}
    rate_steps, rates = curve(records, "lr")
    heights = [3.0] + [2.0] * bool(accuracies) + [1.2] * bool(len(rates))

    figure = new_figure(9, sum(heights) + 0.8)
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    loss_panel = panels[0]
    marker = "o" if len(steps) == 1 else ""
    if len(steps) >= SMOOTH_FROM:
        window = len(steps) // 50 * 2 + 1
        loss_panel.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=0.8, label="each logged step")
        smooth = running_mean(losses, window)
        centres = steps[window // 2 : window // 2 + len(smooth)]
        loss_panel.plot(centres, smooth, color=BLUE, linewidth=2, label=f"mean of {window} around it")
    else:
        loss_panel.plot(steps, losses, color=BLUE, linewidth=1.8, marker=marker, label="training loss")
    if chance_loss is not None:
        loss_panel.axhline(chance_loss, color="#777777", linestyle="--", linewidth=1.2, label="guessing")
    loss_panel.set_ylabel("training loss")
    loss_panel.legend(loc="best", framealpha=0.9, edgecolor="none", fontsize=9)
    loss_panel.set_title("Training loss", loc="left", fontsize=12, fontweight="bold")

    if accuracies:
        for key, color, shape in zip(HEADLINES, (BLUE, ORANGE, GREEN), "osD", strict=True):
            if key in accuracies:
                at_steps, fractions = accuracies[key]
                panels[1].plot(at_steps, 100 * fractions, color=color, marker=shape, markersize=4, label=FRACTIONS[key])
        panels[1].set_ylim(-3, 103)
        panels[1].set_ylabel("held-out, %")
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
