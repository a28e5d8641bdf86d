"""How far each channel looks: the distance over which the weight of another token falls, block by block."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.layers import SpatialMix, SpatialMix6
from vrwkv.visualize.patch_features import evaluating, patch_size


@dataclass(frozen=True)
class DecayMap:
    """Rates at which Bi-WKV's and Bi-WKV6's weights fall with distance, for images of one size."""

    rates: Tensor
    """(blocks, C) float64: `distance` tokens further on, a weight is e^(-rate · distance) of what it was."""
    grid: tuple[int, int]
    """Rows and columns of patches; tokens follow one another along the rows."""

    @property
    def num_tokens(self) -> int:
        """Patches of an image."""
        return self.grid[0] * self.grid[1]

    def distances(self, remaining: float = 0.5) -> Tensor:
        """(blocks, C) tokens further on at which a weight has fallen to `remaining`: `decay_distance` of the rates."""
        return decay_distance(self.rates, remaining)

    @property
    def growing(self) -> Tensor:
        """(blocks,) share of channels whose weight grows with distance."""
        return (self.rates < 0).double().mean(1)


def decay_distance(rates: Tensor, remaining: float = 0.5) -> Tensor:
    """Tokens over which a weight falls to `remaining` of itself.

    Args:
        rates: decay per token, of any shape.
        remaining: between 0 and 1: 0.5 for half, 1/e for the usual length of an exponential.

    Returns:
        Distances of the shape of `rates`: inf where the weight stays as it is (rate 0), negative where it grows; there
        the magnitude is the distance over which it grows to 1/`remaining` times itself.

    Raises:
        InputError: `remaining` is not between 0 and 1.
    """
    if not 0 < remaining < 1:
        raise InputError(f"remaining must lie between 0 and 1, not {remaining}")
    rates = rates.double()
    return torch.where(rates == 0, math.inf, -math.log(remaining) / rates)


def decay_map(model: nn.Module, images: Tensor) -> DecayMap:
    """Decay per token of every block and channel.

    Bi-WKV divides its learnt decay by the number of tokens, so that only the size of the images counts. Bi-WKV6
    computes a decay for every token: here e^w, its logarithm with the sign turned, is averaged over the tokens of all
    images; times a distance, that is how much the log-weight falls over it on average.

    Args:
        model: a `VisionRWKV`.
        images: (B, 3, H, W), normalised as the model expects, on its device.

    Raises:
        InputError: the model has no blocks with Bi-WKV or Bi-WKV6.
    """
    mixes = [module for module in model.modules() if isinstance(module, (SpatialMix, SpatialMix6))]
    if not mixes:
        raise InputError(f"{type(model).__name__} has no blocks with Bi-WKV: a decay map needs a vrwkv model")
    height, width = patch_size(model)
    grid = (-(-images.shape[-2] // height), -(-images.shape[-1] // width))
    # A stack of Bi-WKV alone has its decays in its parameters: no image need pass through it.
    data_dependent = [mix for mix in mixes if isinstance(mix, SpatialMix6)]
    means = _mean_rates(model, images, data_dependent) if data_dependent else {}
    rates = [
        means[mix] if isinstance(mix, SpatialMix6) else mix.decay.detach().cpu().double() / (grid[0] * grid[1])
        for mix in mixes
    ]
    return DecayMap(torch.stack(rates), grid)


def _mean_rates(model: nn.Module, images: Tensor, mixes: list[SpatialMix6]) -> dict[SpatialMix6, Tensor]:
    """(C,) mean of e^w over tokens and images for each mixer."""
    sums: dict[SpatialMix6, Tensor] = {}
    forward: Any = getattr(model, "forward_features", model)
    with torch.no_grad(), evaluating(model), _observed(mixes, sums):
        for image in images.split(1):
            forward(image)
    return {mix: total / len(images) for mix, total in sums.items()}


@contextmanager
def _observed(mixes: list[SpatialMix6], sums: dict[SpatialMix6, Tensor]) -> Iterator[None]:
    """While open, every call adds its mean of e^w to `sums`: the decays pass through no module that could be hooked."""

    def observe(mix: SpatialMix6) -> None:
        compute = mix._decays

        def decays(x: Tensor) -> Tensor:
            w = compute(x)
            mean = w.detach().cpu().double().exp().mean((0, 1))
            sums[mix] = sums.get(mix, 0) + mean
            return w

        # Through the instance's dictionary: an attribute of this model only, and gone without a trace afterwards.
        mix.__dict__["_decays"] = decays

    for mix in mixes:
        observe(mix)
    try:
        yield
    finally:
        for mix in mixes:
            mix.__dict__.pop("_decays", None)
