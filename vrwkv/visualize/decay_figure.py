"""The picture of decay maps: blocks by channels, coloured by the distance over which a weight halves."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vrwkv.figure import new_figure
from vrwkv.visualize.decay_map import DecayMap
from vrwkv.visualize.picture import heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEAR, FAR, GROWING = "#174a7c", "#8fbbe0", "#c8463c"
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_FLAT = 0.25
"""Halvings over the whole image below which a weight is drawn as all but the same everywhere."""


def draw_decay_maps(maps: Mapping[str, DecayMap], *, title: str = "How far each channel looks") -> "Figure":
    """Draw decay maps beneath one another on one scale; channels are sorted within each block.

    Args:
        maps: by name, such as "untrained" and "trained"; images of one size.
        title: stands above all.
    """
    depth = max(len(each.rates) for each in maps.values())
    figure = new_figure(11, 1.2 + len(maps) * (1.0 + 0.21 * depth))
    panels = figure.subplots(len(maps), 2, squeeze=False, width_ratios=(3.4, 1))
    tokens = next(iter(maps.values())).num_tokens
    colors = {name: _compressed(_halvings(each)) for name, each in maps.items()}
    low, high = _ends(list(colors.values()))
    if low < 0:
        # White stays where a weight neither falls nor grows, and both sides have the same steps.
        scale: dict[str, Any] = {"cmap": "RdBu", "vmin": -max(-low, high), "vmax": max(-low, high)}
    else:
        scale = {"cmap": "viridis_r", "vmin": low, "vmax": high}
    for (map_panel, share_panel), (name, each) in zip(panels, maps.items(), strict=True):
        ordered = np.sort(colors[name], axis=1)[:, ::-1]
        extent = (0, 100, len(ordered) - 0.5, -0.5)
        shown = map_panel.imshow(ordered, aspect="auto", interpolation="nearest", extent=extent, **scale)
        map_panel.set(xlabel="channels of each block, those that look nearest first, %", ylabel="block")
        map_panel.set_yticks(_block_ticks(len(ordered)))
        heading(map_panel, name)
        _draw_shares(share_panel, each)
    bar = figure.colorbar(shown, ax=panels[:, 0], fraction=0.03, pad=0.012, aspect=max(22, 1.8 * depth) * len(maps))
    bar.ax.set_ylim(low, high)
    ticks = _distance_ticks(tokens, low, high)
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.set_label("distance in tokens over which a weight …", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    grid = next(iter(maps.values())).grid
    # What no map shows needs no explanation.
    bars = {label: bar for panel in panels[:, 1] for bar, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(list(bars.values()), list(bars), loc="outside lower right", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(f"{title}\n{tokens} tokens, {grid[1]} of them in a row of patches", fontsize=12)
    return figure


def _halvings(each: DecayMap) -> np.ndarray:
    """(blocks, C) how often a weight halves over the whole image, at most once a token; negative where it doubles."""
    return (each.rates / np.log(2)).clamp(-1, 1).numpy() * each.num_tokens


def _compressed(halvings: Any) -> Any:
    """A logarithmic scale through zero, where a weight is the same everywhere."""
    return np.sign(halvings) * np.log1p(np.abs(halvings) / _FLAT)


def _ends(colors: list[np.ndarray]) -> tuple[float, float]:
    """Lowest and highest colour, far enough apart for a labelled distance between them."""
    low, high = min(float(each.min()) for each in colors), max(float(each.max()) for each in colors)
    if high - low < 1:
        middle = (low + high) / 2
        return (max(middle - 0.5, 0) if low >= 0 else middle - 0.5), middle + 0.5
    return low, high


def _draw_shares(panel: Any, each: DecayMap) -> None:
    """Bars of the share of channels that halve within a row of patches, further away, or grow."""
    distances = each.distances(0.5).numpy()
    within = 100 * ((distances > 0) & (distances <= each.grid[1])).mean(1)
    growing = 100 * each.growing.numpy()
    left = np.zeros(len(within))
    for share, color, label in (
        (within, NEAR, "halves within a row"),
        (100 - within - growing, FAR, "halves further on"),
        (growing, GROWING, "grows"),
    ):
        if not share.any():
            continue
        panel.barh(range(len(share)), share, left=left, color=color, height=0.82, label=label)
        left += share
    panel.set(xlim=(0, 100), ylim=(len(within) - 0.5, -0.5), xlabel="share of channels, %")
    panel.set_yticks(_block_ticks(len(within)))
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _block_ticks(depth: int) -> list[int]:
    return list(range(0, depth, 1 if depth <= 12 else 2))


def _distance_ticks(tokens: int, low: float, high: float) -> dict[float, str]:
    """Places on the scale and what stands there, far enough apart to be read."""
    found: dict[float, str] = {}
    for sign, word in ((1, "halves"), (-1, "doubles")):
        for distance in _TICKS:
            place = float(_compressed(sign * tokens / distance))
            if low <= place <= high and tokens / distance >= 2 * _FLAT:
                found[place] = f"{word}: {distance if distance > 1 else '≤ 1'}"
    if low <= 0 <= high:
        found[0.0] = "stays: ∞"
    apart = 0.035 * (high - low)
    kept: dict[float, str] = {}
    # Zero first, then from either end inwards, so that the ends are labelled.
    for place in sorted(found, key=lambda place: (place != 0, -abs(place))):
        if all(abs(place - other) >= apart for other in kept):
            kept[place] = found[place]
    return kept
