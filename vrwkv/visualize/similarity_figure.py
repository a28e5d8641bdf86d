"""The picture of token similarities: each photograph with the chosen patch, and how alike all others are to it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from vrwkv.figure import new_figure
from vrwkv.visualize.picture import bare, heading, show_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = "#ff3b30"


def draw_token_similarity(
    pictures: Sequence[Image.Image],
    similarities: Mapping[str, Sequence[Tensor]],
    patch: tuple[int, int],
    patch_size: tuple[int, int],
    *,
    title: str = "Which patches are alike",
) -> "Figure":
    """Draw one row for each photograph: itself, then one map for each name; all maps share one scale.

    Args:
        pictures: as the model saw them.
        similarities: (h, w) of each picture, by name, such as "untrained" and "trained"; see `token_similarity`.
        patch: (row, column) that was compared with all others.
        patch_size: (height, width) in pixels.
        title: stands above all.
    """
    every = np.concatenate([np.asarray(each).ravel() for maps in similarities.values() for each in maps])
    scale = {"vmin": float(np.floor(10 * every.min()) / 10), "vmax": 1.0, "cmap": "magma"}
    columns = 1 + len(similarities)
    figure = new_figure(0.9 + 3.1 * columns, 0.8 + 3.1 * len(pictures))
    panels = figure.subplots(len(pictures), columns, squeeze=False)
    for row, picture in enumerate(pictures):
        show_picture(panels[row, 0], picture)
        _mark(panels[row, 0], patch, patch_size)
        for panel, maps in zip(panels[row, 1:], similarities.values(), strict=True):
            height, width = (size * count for size, count in zip(patch_size, maps[row].shape, strict=True))
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            shown = panel.imshow(np.asarray(maps[row]), extent=extent, interpolation="nearest", **scale)
            _mark(panel, patch, patch_size)
            bare(panel)
            # Patches at the right and bottom may reach beyond the picture.
            panel.set(xlim=(-0.5, picture.width - 0.5), ylim=(picture.height - 0.5, -0.5))
    heading(panels[0, 0], f"patch in row {patch[0]}, column {patch[1]}")
    for panel, name in zip(panels[0, 1:], similarities, strict=True):
        heading(panel, name)
    bar = figure.colorbar(
        shown, ax=panels[:, 1:], fraction=0.046 / len(similarities), pad=0.015, aspect=22 * len(pictures)
    )
    bar.set_label("cosine with the marked patch", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=12)
    return figure


def _mark(axes: Any, patch: tuple[int, int], patch_size: tuple[int, int]) -> None:
    from matplotlib.patches import Rectangle

    corner = (patch[1] * patch_size[1] - 0.5, patch[0] * patch_size[0] - 0.5)
    # White beneath red shows on any ground.
    for width, color in ((4.0, "white"), (2.0, MARK)):
        axes.add_patch(Rectangle(corner, patch_size[1], patch_size[0], fill=False, linewidth=width, edgecolor=color))
