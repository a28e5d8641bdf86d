"""A fixed split of a labelled set into training and held-out samples, stratified by class."""

import difflib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from vrwkv.errors import InputError

Split = Literal["all", "train", "held_out"]
HELD_OUT_FRACTION = 0.2
_SPLIT_SEED = 0


def split_indices(labels: Sequence[int] | np.ndarray, split: str) -> np.ndarray:
    """Indices of the samples in a split, ascending.

    Of each class with n samples, round(n / 5) are held out, drawn with a fixed seed. Each class is drawn by itself, so
    that adding images to one class moves no image of another; and a class with one or two images keeps them all for
    training (scikit-learn's stratified split refuses such sets).

    Args:
        labels: (N,) class of each sample.
        split: "all", "train" or "held_out".

    Returns:
        (M,) int64.

    Raises:
        InputError: unknown split.
    """
    if split not in get_args(Split):
        near = difflib.get_close_matches(split, get_args(Split), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"unknown split {split!r}: choose from {', '.join(get_args(Split))}{hint}")
    labels = np.asarray(labels, dtype=np.int64)
    if split == "all":
        return np.arange(len(labels))
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        generator = np.random.default_rng(np.random.SeedSequence(_SPLIT_SEED, spawn_key=(int(label),)))
        held_out[generator.permutation(members)[: round(len(members) * HELD_OUT_FRACTION)]] = True
    return np.flatnonzero(held_out if split == "held_out" else ~held_out)
