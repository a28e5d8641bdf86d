"""Give one sample its own random numbers without disturbing anybody else's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded_generators(sequence: np.random.SeedSequence) -> Iterator[np.random.Generator]:
    """Within the context, Python's, numpy's and torch's global CPU generators and the one returned follow `sequence`.

    torchvision, timm and open_clip draw from the global generators. Their states are put back afterwards, so that the
    dropout of a model trained in the same process does not depend on the augmentation of its images. GPU generators are
    left alone.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the generator that other libraries use
    torch_state = torch.get_rng_state()
    python_seed, numpy_seed, torch_seed = (int(word) for word in sequence.generate_state(3, np.uint32))
    try:
        random.seed(python_seed)
        np.random.seed(numpy_seed)  # noqa: NPY002
        torch.default_generator.manual_seed(torch_seed)
        yield np.random.default_rng(sequence)
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
