"""The picture of patch features as colours: each photograph beside its principal components."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vrwkv.figure import new_figure
from vrwkv.visualize.feature_pca import PatchComponents
from vrwkv.visualize.picture import bare, heading, show_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_feature_pca(
    pictures: Sequence[Image.Image],
    components: Mapping[str, PatchComponents],
    patch_size: tuple[int, int],
    *,
    title: str = "Patch features: the first three principal components as red, green and blue",
) -> "Figure":
    """Draw one row for each photograph: itself, then its components for each name. Equal colours are equal features.

    Args:
        pictures: as the model saw them.
        components: of these pictures jointly, by name, such as "untrained" and "trained"; see `feature_pca`.
        patch_size: (height, width) in pixels.
        title: stands above all.
    """
    columns = 1 + len(components)
    figure = new_figure(0.3 + 3.1 * columns, 0.9 + 3.1 * len(pictures))
    panels = figure.subplots(len(pictures), columns, squeeze=False)
    colors = {name: each.colors() for name, each in components.items()}
    for row, picture in enumerate(pictures):
        show_picture(panels[row, 0], picture)
        for panel, name in zip(panels[row, 1:], components, strict=True):
            shown = np.asarray(colors[name][row])
            height, width = (size * count for size, count in zip(patch_size, shown.shape[:2], strict=True))
            panel.imshow(shown, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
            bare(panel)
            panel.set(xlim=(-0.5, picture.width - 0.5), ylim=(picture.height - 0.5, -0.5))
    heading(panels[0, 0], "picture")
    for panel, name in zip(panels[0, 1:], components, strict=True):
        heading(panel, name)
    for panel, each in zip(panels[-1, 1:], components.values(), strict=True):
        red, green, blue = (f"{100 * float(share):.0f} %" for share in each.explained)
        panel.set_xlabel(f"of the variance: red {red}, green {green}, blue {blue}", fontsize=9)
    figure.suptitle(title, fontsize=12)
    return figure
