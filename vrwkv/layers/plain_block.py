"""Which blocks `eager_block` can run: those of whose modules nobody could tell that they were not called."""

import os
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from vrwkv.layers.channel_mix import ChannelMix
from vrwkv.layers.drop_path import DropPath
from vrwkv.layers.hooks import has_hooks, hooked_everywhere
from vrwkv.layers.large_inputs import LARGEST, is_eager_inference
from vrwkv.layers.spatial_mix import SpatialMix
from vrwkv.layers.token_shift import TokenShift
from vrwkv.ops.cpu_runtime.refusal import refuse_cpu
from vrwkv.ops.dispatch import ENVIRONMENT_VARIABLE

if TYPE_CHECKING:
    from vrwkv.layers.block import Block

LANES = 16  # channels that the compiled loops take at once; they have no last block that overlaps here


class PlainBlock(NamedTuple):
    """Parameters and settings of a block.

    Attributes:
        norm1, norm2: weight, bias and epsilon of the norms.
        spatial_shares, channel_shares: share of the token itself in each mixture.
        spatial_shift, channel_shift: distance and gamma.
        key, value, receptance, output, decay, bonus: of the spatial mix.
        channel_key, channel_value, channel_receptance: weights of the channel mix.
        hidden_channels: width of its hidden layer.
    """

    norm1: tuple[Tensor, Tensor, float]
    spatial_shares: tuple[Tensor, ...]
    spatial_shift: tuple[int, float]
    key: Tensor
    value: Tensor
    receptance: Tensor
    output: Tensor
    decay: Tensor
    bonus: Tensor
    norm2: tuple[Tensor, Tensor, float]
    channel_shares: tuple[Tensor, ...]
    channel_shift: tuple[int, float]
    channel_key: Tensor
    channel_value: Tensor
    channel_receptance: Tensor
    hidden_channels: int


class _NotPlainError(Exception):
    """The block has something that must be called."""


def plain_block(block: "Block", x: Tensor, grid: object) -> PlainBlock | None:
    """What `eager_block.run_block` needs to run `block` on `x`, or None where it cannot stand in for the modules.

    It can in eager inference on the CPU in float32, for blocks of the plain Vision-RWKV with norms first, while
    nothing has been hooked, replaced or wrapped, no other backend has been asked for, and the hidden layer is not so
    large that it is better computed in pieces.
    """
    if type(x) is not Tensor or not is_eager_inference(x) or x.dtype != torch.float32 or x.ndim != 3:
        return None
    if not x.is_contiguous() or type(grid) is not tuple or not 0 < grid[0] * grid[1] <= x.shape[1]:
        return None
    if os.environ.get(ENVIRONMENT_VARIABLE) not in _OUR_BACKENDS or refuse_cpu(x) is not None or hooked_everywhere():
        return None
    if block.post_norm:
        return None
    modules, channels = block._modules, x.shape[2]
    spatial, channel = modules["spatial_mix"], modules["channel_mix"]
    try:
        for name in ("ls1", "ls2"):
            _checked(modules[name], nn.Identity)
        for name in ("drop_path1", "drop_path2"):
            drop = _checked(modules[name], DropPath)
            if drop.training and drop.drop_prob:
                return None
        if not spatial.follows_paper:
            return None
        return _parts(modules, spatial, channel, channels, x.shape[0] * x.shape[1])
    except _NotPlainError:
        return None


_OUR_BACKENDS = (None, "", "cpu")


def _parts(
    modules: dict[str, nn.Module | None], spatial: nn.Module, channel: nn.Module, channels: int, tokens: int
) -> PlainBlock:
    inside, own = _inside(spatial, SpatialMix)
    inside2, own2 = _inside(channel, ChannelMix)
    key = _weight(inside2["key"])
    hidden = key.shape[0]
    if 4 * hidden * tokens > LARGEST or channels % LANES or hidden % LANES:
        raise _NotPlainError
    square, widening = (channels, channels), (hidden, channels)
    if key.shape != widening:
        raise _NotPlainError
    return PlainBlock(
        _norm(modules["norm1"], channels),
        tuple([_vector(own[name], channels) for name in ("mix_k", "mix_v", "mix_r")]),
        _shift(inside["token_shift"]),
        _weight(inside["key"], square),
        _weight(inside["value"], square),
        _weight(inside["receptance"], square),
        _weight(inside["output"], square),
        _vector(own["decay"], channels),
        _vector(own["bonus"], channels),
        _norm(modules["norm2"], channels),
        tuple([_vector(own2[name], channels) for name in ("mix_k", "mix_r")]),
        _shift(inside2["token_shift"]),
        key,
        _weight(inside2["value"], (channels, hidden)),
        _weight(inside2["receptance"], square),
        hidden,
    )


def _checked(module: nn.Module | None, kind: type[nn.Module]) -> nn.Module:
    if type(module) is not kind or "forward" in module.__dict__ or has_hooks(module):
        raise _NotPlainError
    return module


def _inside(mix: nn.Module, kind: type[nn.Module]) -> tuple[dict, dict]:
    _checked(mix, kind)
    modules = mix._modules
    if mix.backend not in _OUR_BACKENDS or modules["token_shift"] is None:
        raise _NotPlainError
    _checked(modules["key_norm"], nn.Identity)
    return modules, mix._parameters


def _weight(linear: nn.Module | None, shape: tuple[int, int] | None = None) -> Tensor:
    parameters = _checked(linear, nn.Linear)._parameters
    weight = parameters["weight"]
    if parameters["bias"] is not None or type(weight) is not nn.Parameter or weight.dtype != torch.float32:
        raise _NotPlainError
    if shape is not None and weight.shape != shape:
        raise _NotPlainError
    return weight


def _vector(parameter: Tensor | None, channels: int) -> Tensor:
    if (
        type(parameter) is not nn.Parameter
        or parameter.dtype != torch.float32
        or parameter.shape != (channels,)
        or not parameter.is_contiguous()
    ):
        raise _NotPlainError
    return parameter


def _norm(norm: nn.Module | None, channels: int) -> tuple[Tensor, Tensor, float]:
    parameters = _checked(norm, nn.LayerNorm)._parameters
    return _vector(parameters["weight"], channels), _vector(parameters["bias"], channels), norm.eps


def _shift(shift: nn.Module | None) -> tuple[int, float]:
    _checked(shift, TokenShift)
    if shift.num_heads != 1 or shift.shift_pixel < 1 or not 0 <= shift.channel_gamma <= 0.25:
        raise _NotPlainError
    return shift.shift_pixel, shift.channel_gamma
