"""retrieval.png: a text query a row, its best images in order, right ones framed green and wrong ones red."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkv_clip.evaluate.retrieval import top_matches
from vrwkv.errors import InputError
from vrwkv.figure import new_figure, save_figure, shorten

RIGHT, WRONG = "#1b8a3a", "#c62828"


@dataclass(frozen=True)
class RetrievalExample:
    """A text query and the images it found, best first."""

    caption: str
    images: Sequence[Any]
    """PIL images, or arrays (H, W) or (H, W, 3) as matplotlib's imshow takes them."""
    correct: Sequence[bool]
    """Whether each image is relevant to the caption."""


def choose_examples(
    image_features: Tensor,
    text_features: Tensor,
    captions: Sequence[str],
    relevant: Sequence[tuple[int, int]] | Tensor,
    load_image: Callable[[int], Any],
    num_queries: int = 6,
    num_images: int = 5,
) -> list[RetrievalExample]:
    """Retrieve images for a few captions, spread evenly over those that have a relevant image: no picking of good ones.

    Captions with the same relevant images, such as several sentences about one class, share at most one row.

    Args:
        image_features: (N, D) of unit length.
        text_features: (M, D) of unit length.
        captions: the M texts.
        relevant: (image index, text index) pairs.
        load_image: gives the picture of an image index, before any normalisation.
        num_queries: rows; fewer if there are fewer such groups of captions.
        num_images: images a row; fewer if there are fewer.

    Raises:
        InputError: as many captions as texts are needed, and at least one relevant pair.
    """
    if len(captions) != len(text_features):
        raise InputError(f"{len(captions)} captions do not fit {len(text_features)} text features")
    pairs = {(int(image), int(text)) for image, text in relevant}
    if not pairs:
        raise InputError("no caption has a relevant image, so there is no retrieval to show")
    images_of_text = defaultdict(list)
    for image, text in sorted(pairs):
        images_of_text[text].append(image)
    groups = defaultdict(list)
    for text in sorted(images_of_text):
        groups[tuple(images_of_text[text])].append(text)
    candidates = list(groups.values())
    # The middle of equal stretches rather than their start, so that neither end of an ordered list is preferred.
    rows = min(num_queries, len(candidates))
    chosen = [candidates[(2 * row + 1) * len(candidates) // (2 * rows)] for row in range(rows)]
    queries = [texts[row % len(texts)] for row, texts in enumerate(chosen)]
    found = top_matches(text_features[torch.tensor(queries)], image_features, num_images).indices.tolist()
    return [
        RetrievalExample(captions[query], [load_image(i) for i in images], [(i, query) in pairs for i in images])
        for query, images in zip(queries, found, strict=True)
    ]


def draw_retrieval(examples: Sequence[RetrievalExample], path: Path) -> None:
    """Draw the grid into a PNG.

    Raises:
        InputError: no examples, one without images, or one with more or fewer marks than images.
    """
    if not examples:
        raise InputError("no retrieval examples to draw")
    for example in examples:
        if not len(example.images) or len(example.images) != len(example.correct):
            raise InputError(
                f"retrieval example {example.caption!r} has {len(example.images)} images and {len(example.correct)} "
                "marks; both must be the same and at least 1"
            )
    columns = max(len(example.images) for example in examples)
    figure = new_figure(2.5 + 1.35 * columns, 0.75 + 1.5 * len(examples))
    axes = figure.subplots(len(examples), columns + 1, squeeze=False, width_ratios=[1.75, *[1] * columns])
    for row, example in enumerate(examples):
        text_axes = axes[row, 0]
        text_axes.set_axis_off()
        lines = wrap(shorten(example.caption, 110), 24)
        text_axes.text(
            1, 0.5, "\n".join(lines), ha="right", va="center", fontsize=10, parse_math=False,
            transform=text_axes.transAxes,
        )  # fmt: skip
        for column in range(columns):
            cell = axes[row, column + 1]
            cell.set(xticks=[], yticks=[])
            if column >= len(example.images):
                cell.set_axis_off()
                continue
            image = np.asarray(example.images[column])
            height, width = image.shape[:2]
            cell.imshow(image, cmap="gray", interpolation="nearest" if max(height, width) <= 64 else "antialiased")
            # Every picture gets the same square frame, whatever its shape.
            side = max(height, width)
            cell.set_xlim((width - side) / 2 - 0.5, (width + side) / 2 - 0.5)
            cell.set_ylim((height + side) / 2 - 0.5, (height - side) / 2 - 0.5)
            color = RIGHT if example.correct[column] else WRONG
            for spine in cell.spines.values():
                spine.set(color=color, linewidth=4)
            # A mark beside the colour, for readers who cannot tell green from red.
            mark = "✓" if example.correct[column] else "✗"
            cell.set_xlabel(mark, color=color, fontsize=11, fontweight="bold", labelpad=2)
            if row == 0:
                cell.set_title("best match" if column == 0 else f"{column + 1}", fontsize=10)
    save_figure(figure, path)
