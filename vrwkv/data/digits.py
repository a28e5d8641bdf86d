"""Scikit-learn's 1797 scanned digits: a real labelled image set that needs no download."""

from typing import Any

import numpy as np
from PIL import Image

from vrwkv.data.split import split_indices
from vrwkv.errors import InputError

DIGIT_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class DigitsSource:
    """Handwritten digits, 8 × 8 pixels, bright strokes on black, as RGB images with labels 0 to 9.

    Args:
        split: "all" (1797 samples), "train", or "held_out": a fixed fifth of every class.

    Raises:
        InputError: unknown split, or scikit-learn is not installed.
    """

    def __init__(self, split: str = "all") -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise InputError("the digits set comes with scikit-learn: pip install 'vrwkv[clip]'") from None
        digits = load_digits()
        self._indices = split_indices(digits.target, split)
        # The scans hold 17 gray levels, 0 to 16.
        self._pixels = np.round(digits.images[self._indices] * (255 / 16)).astype(np.uint8)
        self.labels: list[int] = digits.target[self._indices].tolist()
        self.class_names = list(DIGIT_NAMES)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A dict with "image", "label" and "name"."""
        image = Image.fromarray(self._pixels[index]).convert("RGB")
        return {"image": image, "label": self.labels[index], "name": f"scikit-learn digit {self._indices[index]}"}
