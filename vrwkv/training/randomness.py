"""Seeding of the global generators, so that a training step's randomness is a function of its number."""

import random

import numpy as np
import torch


def seed_generators(*entropy: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (every device) from non-negative integers.

    `seed_generators(seed)` before building a model fixes its initial weights; the loop calls
    `seed_generators(seed, step, rank)` before every step, which makes dropout, drop path and mixup of a step the same
    in an interrupted run, without any generator state in the checkpoint.
    """
    words = np.random.SeedSequence(entropy).generate_state(8, np.uint32)
    random.seed(words[:2].tobytes())
    np.random.seed(words[2:6])  # noqa: NPY002 - augmentations of timm and torchvision draw from the global generator
    torch.manual_seed(int(words[6]) << 32 | int(words[7]))
