"""Pictures with what a detector found in them: boxes, masks, names and scores."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from vrwkv.evaluate.detection import MASK_THRESHOLD
from vrwkv.figure import new_figure, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4
LONGEST_NAME = 18
MASK_OPACITY = 0.45
LABEL_HEIGHT = 0.05
"""Of a picture: so much room a label needs above its box; otherwise it stands inside."""


def draw_detections(
    pictures: Sequence[Image.Image],
    outputs: Sequence[Mapping[str, Tensor]],
    class_names: Sequence[str],
    threshold: float = 0.5,
    *,
    width: float = 3.2,
) -> "Figure":
    """Draw pictures in rows of up to four, a colour for each class.

    Args:
        pictures: RGB.
        outputs: of torchvision's detectors for them: "boxes", "labels" from 1, "scores", and "masks" (N, 1, H, W) in
            [0, 1] or not.
        class_names: of labels 1, 2, …
        threshold: detections with a lower score are not drawn.
        width: of a picture in inches.
    """
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    shape = max(picture.height / picture.width for picture in pictures)
    figure = new_figure(width * columns, width * shape * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    colours = class_colours(len(class_names))
    for panel in panels.flat:
        panel.set_axis_off()
    for panel, picture, output in zip(panels.flat, pictures, outputs, strict=False):
        kept = (output["scores"] >= threshold).cpu()
        shown = {name: value.cpu()[kept].numpy() for name, value in output.items()}
        panel.imshow(_with_masks(picture, shown, colours), interpolation="nearest")
        for box, label, score in zip(shown["boxes"], shown["labels"], shown["scores"], strict=True):
            _draw_box(panel, box, f"{shorten(class_names[label - 1], LONGEST_NAME)} {score:.2f}", colours[label - 1])
    return figure


def class_colours(number: int) -> np.ndarray:
    """(number, 3) float64 in [0, 1]: hues around the circle, far from each other for neighbouring classes."""
    from matplotlib.colors import hsv_to_rgb

    golden = 0.6180339887498949
    hues = (np.arange(number) * golden) % 1
    return hsv_to_rgb(np.stack([hues, np.full(number, 0.85), np.full(number, 0.95)], axis=1))


def _with_masks(picture: Image.Image, shown: Mapping[str, np.ndarray], colours: np.ndarray) -> np.ndarray:
    pixels = np.asarray(picture, dtype=np.float64) / 255
    for mask, label in zip(shown.get("masks", ()), shown["labels"], strict="masks" in shown):
        inside = mask[0] >= MASK_THRESHOLD
        pixels[inside] = (1 - MASK_OPACITY) * pixels[inside] + MASK_OPACITY * colours[label - 1]
    return pixels


def _draw_box(panel: Any, box: np.ndarray, text: str, colour: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box - 0.5  # a figure's pixels lie around whole numbers
    outside = top > LABEL_HEIGHT * panel.get_ylim()[0]
    panel.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.4))
    panel.text(
        left,
        top,
        text,
        fontsize=6.5,
        color="white",
        verticalalignment="bottom" if outside else "top",
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8},
        clip_on=True,
    )
