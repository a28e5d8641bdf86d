"""What a data set looks like to the toolkit: indexed samples, one exception for the unreadable, one image decoder."""

import io
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class Source(Protocol):
    """A random-access, indexed collection of samples.

    A sample is a dict with "image" (a PIL image in mode RGB), "name" (where it came from, for messages) and, as the
    data set offers them, "captions" (a list of strings) and "label" (an int). `__getitem__` raises `CorruptSample` for
    a sample that cannot be read. A source holds no open file, so it works after fork and pickling.
    """

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample at `index`, 0 <= index < len(self)."""
        ...


class LabelledSource(Source, Protocol):
    """A source whose samples carry a "label", known without decoding any image."""

    @property
    def class_names(self) -> list[str]:
        """Name of each class; the label is the position."""
        ...

    @property
    def labels(self) -> Sequence[int] | np.ndarray:
        """Label of each sample."""
        ...


class CorruptSample(Exception):
    """One sample cannot be used: its file is damaged, missing, or holds nothing to learn from.

    Args:
        name: where the sample came from, e.g. "pairs.csv line 7 (img/a.jpg)".
        reason: what is wrong with it, one line.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = " ".join(reason.split())

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def open_image(path_or_bytes: str | os.PathLike[str] | bytes, name: str | None = None) -> Image.Image:
    """Decode an image file completely, upright and in mode RGB.

    The orientation in the EXIF data is applied; transparent pixels are shown on white; 16-bit gray is scaled to 8 bits;
    of an animation, the first frame counts.

    Args:
        path_or_bytes: a path, or the bytes of an image file.
        name: what to call the image in messages; the path by default.

    Raises:
        CorruptSample: the file is missing, truncated or no image.
    """
    if name is None:
        name = "image in memory" if isinstance(path_or_bytes, bytes) else str(path_or_bytes)
    try:
        with Image.open(io.BytesIO(path_or_bytes) if isinstance(path_or_bytes, bytes) else path_or_bytes) as image:
            image.load()
            return to_rgb(_upright(image))
    except MemoryError:
        raise
    except FileNotFoundError:
        raise CorruptSample(name, "file not found") from None
    except UnidentifiedImageError:
        # Pillow's own message holds a memory address, which would make the same run print different text.
        raise CorruptSample(name, "not an image file that Pillow can read") from None
    except Exception as error:  # decoders raise almost anything on damaged bytes
        raise CorruptSample(name, f"cannot be decoded ({_describe(error)})") from error


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are fine even when the camera wrote broken EXIF data
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded image in mode RGB; transparent pixels on white, 16-bit gray scaled to 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        return _gray_to_8_bit(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colours = image.convert("RGBA")
        background = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(background, colours).convert("RGB")
    return image.convert("RGB")


def _gray_to_8_bit(image: Image.Image) -> Image.Image:
    """Scale gray values by the range of their format: Pillow's own conversion clips everything above 255 to white."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("gray values are negative or not finite")
    full_scale = 65535.0 if image.mode != "F" else 1.0 if values.max() <= 1 else 255.0
    if values.max() > full_scale:
        raise ValueError(f"gray values up to {values.max():g} have no known range")
    return Image.fromarray(np.round(values * (255.0 / full_scale)).astype(np.uint8))
