"""The picture of effective receptive fields: one map each, and how much of the area holds how much of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from vrwkv.figure import new_figure
from vrwkv.visualize.effective_receptive_field import area_share, cumulative_share
from vrwkv.visualize.picture import heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARE = 0.95
COLORS = ("#8a8a8a", "#d9480f", "#1f5fa8", "#2e7d4f")
_WEAKEST = 1e-6
"""The scale never goes further below the strongest pixel than this."""


def draw_receptive_fields(
    fields: Mapping[str, Tensor], *, title: str = "Effective receptive field", note: str = ""
) -> "Figure":
    """Draw fields next to one another on one logarithmic scale, with their cumulative shares.

    Args:
        fields: (H, W) by name, such as "untrained" and "trained", as `effective_receptive_field` gives them.
        title: stands above all.
        note: a line beneath it, such as which patch and how many images.
    """
    from matplotlib.colors import LogNorm

    figure = new_figure(1.2 + 3.9 * (len(fields) + 1), 4.7)
    panels = figure.subplots(1, len(fields) + 1, squeeze=False)[0]
    arrays = {name: np.asarray(field) for name, field in fields.items()}
    weakest = _lower_end(list(arrays.values()))
    norm = LogNorm(weakest, 1.0, clip=True)
    for panel, (name, array) in zip(panels, arrays.items(), strict=False):
        shown = panel.imshow(np.maximum(array, weakest), norm=norm, cmap="inferno", interpolation="nearest")
        heading(panel, name)
        area = 100 * area_share(fields[name], SHARE)
        panel.set_xlabel(f"{100 * SHARE:.0f} % lies in {area:.3g} % of the area")
        panel.tick_params(labelsize=8)
    panels[0].set_ylabel("pixels")
    bar = figure.colorbar(shown, ax=panels[: len(fields)], fraction=0.046 / len(fields), pad=0.015)
    bar.set_label("gradient, relative to the strongest pixel", fontsize=9)
    bar.ax.tick_params(labelsize=8)

    curves = panels[-1]
    for color, (name, field) in zip(_colors(len(fields)), fields.items(), strict=True):
        shares = np.asarray(cumulative_share(field))
        areas = np.linspace(0, 100, len(shares))
        curves.plot(areas, 100 * shares, color=color, linewidth=2, label=name)
        curves.plot([100 * area_share(field, SHARE)], [100 * SHARE], "o", color=color, markersize=6)
    curves.plot([0, 100], [0, 100], color="#bbbbbb", linestyle=":", linewidth=1.2, label="all pixels alike")
    curves.axhline(100 * SHARE, color="#999999", linestyle="--", linewidth=0.9)
    curves.set(
        xlim=(0, 100), ylim=(0, 102), xlabel="strongest pixels, % of the area", ylabel="gradient held by them, %"
    )
    curves.set_box_aspect(1)
    curves.grid(color="#e3e3e3", linewidth=0.8)
    curves.spines[["top", "right"]].set_visible(False)
    curves.tick_params(labelsize=8)
    curves.legend(loc="lower right", frameon=False, fontsize=9)
    heading(curves, "How concentrated it is")
    figure.suptitle(title + (f"\n{note}" if note else ""), fontsize=12)
    return figure


def _colors(count: int) -> list[str]:
    return [COLORS[1]] if count == 1 else [COLORS[index % len(COLORS)] for index in range(count)]


def _lower_end(arrays: list[np.ndarray]) -> float:
    """A power of ten below which hardly a pixel lies."""
    low = min((float(np.quantile(array[array > 0], 0.02)) for array in arrays), default=_WEAKEST)
    return float(np.clip(10 ** np.floor(np.log10(low)), _WEAKEST, 0.1))
