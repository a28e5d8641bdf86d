"""Scenes of scanned digits on textured canvases, with the mask of every digit: dense labels that need no download."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vrwkv.data.digits import DIGIT_NAMES, DigitsSource
from vrwkv.data.split import split_indices
from vrwkv.errors import InputError

DIGITS_IN_A_SCENE = (6, 10)
"""Fewest and most."""
_HEIGHTS = (0.25, 0.32)
"""Height of a digit's scan over the shorter side of the scene."""
_LARGEST_ROTATION = 8.0
"""Degrees."""
_INK = 0.5
"""A pixel belongs to a digit where the stroke covers at least this part of it."""
_LARGEST_OVERLAP = 0.05
"""Part of a digit's box that may lie on boxes drawn before."""
_LEAST_CONTRAST = 90.0
"""Gray levels by which a stroke is brighter than the canvas around it."""
_TRIES = 50


@dataclass(frozen=True)
class Scene:
    """An image and its digits.

    Attributes:
        image: (H, W, 3) uint8.
        masks: (N, H, W) bool, the pixels that each digit shows; no two overlap.
        labels: (N,) int64, 0 to 9.
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray

    @property
    def boxes(self) -> np.ndarray:
        """(N, 4) int64: left, top, right, bottom of each mask; right and bottom lie one pixel outside."""
        found = [(np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))) for mask in self.masks]
        edges = [(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) for columns, rows in found]
        return np.asarray(edges, dtype=np.int64).reshape(-1, 4)


class DigitScenes(Sequence[Scene]):
    """Scenes of six to ten of scikit-learn's scanned digits, rotated, scaled, bright on textured canvases.

    A scene is a function of split, index, size and seed. The scans are divided, not the scenes: those of held-out
    scenes are in no training scene.

    Args:
        split: "train" or "held_out": which scans to draw with.
        count: number of scenes.
        size: (height, width) of a scene, pixels, at least 32.
        seed: another one gives other scenes.

    Raises:
        InputError: unknown split, or size or count too small.
    """

    def __init__(self, split: str, count: int, size: tuple[int, int] = (128, 128), seed: int = 0) -> None:
        split_indices((), split)  # refuses an unknown split
        if min(size) < 32:
            raise InputError(f"scenes must have sides of at least 32 pixels, not {size[0]} × {size[1]}")
        if count < 1:
            raise InputError(f"there must be at least one scene, not {count}")
        digits = DigitsSource(split)
        self._scans = [np.asarray(digits[index]["image"].convert("L")) for index in range(len(digits))]
        self._labels = digits.labels
        self._key = (seed, ("train", "held_out", "all").index(split), *size)
        self._number, self.size = count, size
        self.class_names = list(DIGIT_NAMES)

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> Scene:  # type: ignore[override]
        """The scene at `index`, 0 <= index < len(self)."""
        if not 0 <= index < self._number:
            raise IndexError(index)
        generator = np.random.default_rng(np.random.SeedSequence(self._key[0], spawn_key=(*self._key[1:], index)))
        image = _canvas(generator, self.size)
        owner = np.full(self.size, -1)
        covered = np.zeros(self.size, dtype=bool)
        labels: list[int] = []
        for _ in range(generator.integers(DIGITS_IN_A_SCENE[0], DIGITS_IN_A_SCENE[1] + 1)):
            number = int(generator.integers(len(self._scans)))
            cover = _turned(self._scans[number], generator, min(self.size))
            corner = _free_corner(cover.shape, covered, generator)
            if corner is None:
                continue
            region = (slice(corner[0], corner[0] + cover.shape[0]), slice(corner[1], corner[1] + cover.shape[1]))
            covered[region] = True
            own = cover[:, :, None]
            image[region] = image[region] * (1 - own) + _stroke_colour(image[region], generator) * own
            owner[region][cover >= _INK] = len(labels)
            labels.append(self._labels[number])
        noisy = image + generator.normal(0, generator.uniform(0, 8), image.shape)
        return Scene(
            np.clip(np.round(noisy), 0, 255).astype(np.uint8),
            owner == np.arange(len(labels))[:, None, None],
            np.asarray(labels, dtype=np.int64),
        )


def _canvas(generator: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) float64: two colours mixed by clouds and stripes."""
    height, width = size
    first = generator.uniform(20, 120, 3)
    second = np.clip(first + generator.uniform(-50, 50, 3), 0, 140)
    clouds = generator.uniform(0, 1, tuple(generator.integers(3, 9, 2))).astype(np.float32)
    smooth = np.asarray(Image.fromarray(clouds).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    angle, period = generator.uniform(0, np.pi), generator.uniform(6, 24)
    rows, columns = np.mgrid[:height, :width]
    stripes = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) * (2 * np.pi / period))
    mixed = np.clip(smooth + generator.uniform(0, 0.3) * stripes, 0, 1)[:, :, None]
    return first * (1 - mixed) + second * mixed


def _turned(scan: np.ndarray, generator: np.random.Generator, side: int) -> np.ndarray:
    """(h, w) float64 in [0, 1]: how much of each pixel the scanned strokes cover, cropped to them."""
    height = max(8, round(side * generator.uniform(*_HEIGHTS)))
    width = max(8, round(height * generator.uniform(0.85, 1.0)))
    large = Image.fromarray(np.pad(scan, 2)).resize((round(width * 1.5), round(height * 1.5)), Image.Resampling.BICUBIC)
    turned = large.rotate(generator.uniform(-_LARGEST_ROTATION, _LARGEST_ROTATION), Image.Resampling.BICUBIC)
    # Thin strokes never reach the whole of the scale: 150 of 255 is full ink.
    cover = np.clip(np.asarray(turned, dtype=np.float64) / 150, 0, 1)
    rows, columns = np.flatnonzero((cover >= _INK).any(1)), np.flatnonzero((cover >= _INK).any(0))
    return cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _free_corner(shape: tuple[int, ...], covered: np.ndarray, generator: np.random.Generator) -> tuple[int, int] | None:
    """Row and column where a digit of this shape covers almost nothing of earlier ones; None after many tries."""
    room = np.asarray(covered.shape) - shape
    if (room < 0).any():
        return None
    for _ in range(_TRIES):
        row, column = (int(generator.integers(least + 1)) for least in room)
        if covered[row : row + shape[0], column : column + shape[1]].mean() <= _LARGEST_OVERLAP:
            return row, column
    return None


def _stroke_colour(below: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(3,) a colour brighter than the canvas below."""
    gray = generator.uniform(below.mean() + _LEAST_CONTRAST, 255)
    return np.clip(gray + generator.uniform(-30, 30, 3), 0, 255)
