"""Settings of a norm and a shift, for `cpu_inference`; apart from it, because they need no compiler."""

from typing import NamedTuple

from torch import Tensor


class Norm(NamedTuple):
    """A norm: weight and bias (C,) float32, epsilon."""

    weight: Tensor
    bias: Tensor
    eps: float


class Shift(NamedTuple):
    """Distance (at least 1), share of a head's channels in each direction, and heads, as in `vrwkv.ops.shift_mix`."""

    distance: int
    gamma: float
    num_heads: int
