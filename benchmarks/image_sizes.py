"""How do time and memory grow with the size of the image, next to a vision transformer?

`python benchmarks/image_sizes.py` measures VRWKV-T's and timm's ViT-T's features of one image, float32 on the CPU, from
224 to 16384 pixels, and writes docs/benchmarks/image_sizes.md and .json. Every row is a fresh process with a time
limit; the table is written anew after each, so that what was measured survives an interruption. Outputs are checked
before a time is printed: finite everywhere, and at small sizes equal to the portable backend's.
"""

from collections.abc import Callable
from typing import Any

import torch
from cpu_accuracy import relative_error
from cpu_memory import WARM_UP_SIZE
from cpu_models import LARGEST_DIFFERENCE, OURS, VIT, build, images_of, portable_ops
from fresh_process import HOW_TIMED, timed
from size_table import SizeTable

SIZES = (224, 512, 1024, 2048, 4096, 8192, 16384)
CHECKED_UP_TO = 512
"""Pixels up to which outputs are compared with the portable backend's, which takes long beyond."""
HOW = (
    "Features of the whole image (`forward_features`), float32, batch 1, random weights and pixels, eager. "
    f"{HOW_TIMED} Every output is finite; up to {CHECKED_UP_TO} px those of vrwkv_tiny agree with the portable "
    "backend's (largest difference below, relative to the largest output). A model that did not finish within the "
    "limit was stopped, and its larger images were not tried."
)


def measure(name: str, size: int) -> dict[str, Any]:
    """Seconds, peak resident bytes and difference from the portable backend of one model at one size, in this process.

    Raises:
        SystemExit: an output is not finite, or too far from the portable backend's.
    """
    model = build(name).eval()
    image = images_of(1, size)
    with torch.inference_mode():
        model.forward_features(images_of(1, min(size, WARM_UP_SIZE)))
        # The peak of what is timed; the portable backend, which needs more, runs afterwards.
        features, found = timed(lambda: model.forward_features(image), f"{name} at {size} px")
        difference = _difference(name, size, lambda: model.forward_features(image), features)
    tokens = features.shape[1] - getattr(model, "num_prefix_tokens", 0)
    return {**found, "tokens": tokens, "difference": difference}


def _difference(name: str, size: int, compute: Callable[[], torch.Tensor], features: torch.Tensor) -> float | None:
    if name != OURS or size > CHECKED_UP_TO:
        return None
    with portable_ops():
        expected = compute()
    difference = relative_error(features, expected)
    if not difference <= LARGEST_DIFFERENCE:
        raise SystemExit(f"{name} at {size} px: {difference:.1e} from the portable backend: not timed")
    return difference


TABLE = SizeTable(__file__, "Image sizes", HOW, OURS, VIT, SIZES, 1, measure)

if __name__ == "__main__":
    TABLE.main(__doc__)
