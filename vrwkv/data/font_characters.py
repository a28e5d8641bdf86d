"""Digits and capital letters drawn from the fonts that come with matplotlib: images that need no download."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vrwkv.data.split import split_indices
from vrwkv.errors import InputError

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FAMILIES = {
    "DejaVu Sans": (
        "DejaVuSans.ttf",
        "DejaVuSans-Bold.ttf",
        "DejaVuSans-Oblique.ttf",
        "DejaVuSans-BoldOblique.ttf",
    ),
    "DejaVu Sans Mono": (
        "DejaVuSansMono.ttf",
        "DejaVuSansMono-Bold.ttf",
        "DejaVuSansMono-Oblique.ttf",
        "DejaVuSansMono-BoldOblique.ttf",
    ),
    "DejaVu Serif": (
        "DejaVuSerif.ttf",
        "DejaVuSerif-Bold.ttf",
        "DejaVuSerif-Italic.ttf",
        "DejaVuSerif-BoldItalic.ttf",
    ),
    "Computer Modern Roman": ("cmr10.ttf", "cmb10.ttf", "cmti10.ttf", "cmmi10.ttf"),
    "STIX": ("STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf", "STIXGeneralBolIta.ttf"),
    "Computer Modern Sans": ("cmss10.ttf",),
    "Computer Modern Typewriter": ("cmtt10.ttf",),
}
"""Matplotlib's text fonts. Its other files hold symbols, at least in the place of the digits."""
COMPLETE_FROM = "matplotlib 3.11"
HELD_OUT_FAMILIES = ("STIX", "Computer Modern Sans", "Computer Modern Typewriter")
SIZE = 24
"""Pixels on each side of an image."""
VARIANTS = 4
"""Images of each character in each font."""
_OVERSAMPLING = 4
_SEED = 0


class FontCharactersSource:
    """Digits and capital letters, 24 × 24 pixels, gray on gray as RGB images, with labels 0 to 35.

    The fonts are divided, not the images: whole families are held out. Of each character there are four images a font,
    which differ in size (50 to 70 % of the image's height), place, rotation (up to 8°), slant, gray levels (the stroke
    is darker by at least 120 of 255) and noise. An image is a function of font, character and variant.

    Args:
        split: "all" (22 fonts), "train" (16 fonts), or "held_out" (6 fonts of 3 families).

    Attributes:
        fonts: file of the font of each sample.

    Raises:
        InputError: unknown split, matplotlib is not installed, or a font is not there.
    """

    def __init__(self, split: str = "all") -> None:
        split_indices((), split)  # refuses an unknown split
        self._folder = _font_folder()
        files = [
            (number, file)
            for number, (family, file) in enumerate(_numbered_fonts())
            if split == "all" or (family in HELD_OUT_FAMILIES) == (split == "held_out")
        ]
        self._samples = [
            (number, file, label, variant)
            for number, file in files
            for label in range(len(CHARACTERS))
            for variant in range(VARIANTS)
        ]
        self.fonts = [file for _, file, _, _ in self._samples]
        self.labels: list[int] = [label for _, _, label, _ in self._samples]
        self.class_names = list(CHARACTERS)
        # An image takes half a millisecond to draw and half a kilobyte to keep.
        self._drawn: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A dict with "image", "label" and "name"."""
        number, file, label, variant = self._samples[index]
        if index not in self._drawn:
            generator = np.random.default_rng(np.random.SeedSequence(_SEED, spawn_key=(number, label, variant)))
            self._drawn[index] = _draw(str(self._folder / file), CHARACTERS[label], generator)
        image = Image.fromarray(self._drawn[index]).convert("RGB")
        return {"image": image, "label": label, "name": f"{CHARACTERS[label]} in {file}, variant {variant}"}


def _numbered_fonts() -> list[tuple[str, str]]:
    return [(family, file) for family, files in FAMILIES.items() for file in files]


def _font_folder() -> Path:
    try:
        import matplotlib
    except ImportError:
        raise InputError("the fonts come with matplotlib: pip install 'vrwkv[train]'") from None
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    missing = [file for _, file in _numbered_fonts() if not (folder / file).is_file()]
    if missing:
        raise InputError(
            f"matplotlib {matplotlib.__version__} lacks the font {missing[0]} in {folder}: {COMPLETE_FROM} has them all"
        )
    return folder


@lru_cache(maxsize=64)
def _load_font(path: str) -> ImageFont.FreeTypeFont:
    """The font at the size at which its capitals are 100 pixels high."""
    trial = 100
    _, top, _, bottom = ImageFont.truetype(path, trial, layout_engine=ImageFont.Layout.BASIC).getbbox("H")
    return ImageFont.truetype(path, round(trial * 100 / (bottom - top)), layout_engine=ImageFont.Layout.BASIC)


def _glyph(path: str, character: str) -> Image.Image:
    """The character alone, white on black, capitals 100 pixels high, in the middle of a larger canvas."""
    font = _load_font(path)
    left, top, right, bottom = font.getbbox(character)
    side = 256
    canvas = Image.new("L", (side, side))
    corner = ((side - left - right) / 2, (side - top - bottom) / 2)
    ImageDraw.Draw(canvas).text(corner, character, fill=255, font=font)
    return canvas


def _draw(path: str, character: str, generator: np.random.Generator) -> np.ndarray:
    """(SIZE, SIZE) uint8: a variant of the character."""
    glyph = _glyph(path, character)
    side = SIZE * _OVERSAMPLING
    scale = 100 / (side * generator.uniform(0.5, 0.7))
    angle = math.radians(generator.uniform(-8, 8))
    slant = generator.uniform(-0.1, 0.1)
    shift = generator.uniform(-0.04, 0.04, size=2) * side
    # From the image to the glyph's canvas, both seen from their middles.
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = scale * rotation @ np.array([[1, slant], [0, 1]])
    offset = np.array(glyph.size) / 2 - matrix @ (side / 2 + shift)
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    large = glyph.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    cover = np.asarray(large.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float64) / 255
    darker = generator.uniform(0, 255 - 120)
    lighter = generator.uniform(darker + 120, 255)
    pixels = lighter + (darker - lighter) * cover + generator.normal(0, generator.uniform(0, 8), (SIZE, SIZE))
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)
