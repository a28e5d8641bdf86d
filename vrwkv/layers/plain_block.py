"""Which blocks `eager_block` can run: those of whose modules nobody could tell that they were not called."""

import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from vrwkv.layers.channel_mix import ChannelMix
from vrwkv.layers.drop_path import DropPath
from vrwkv.layers.hooks import has_global_hooks, has_own_hooks
from vrwkv.layers.large_inputs import is_eager_inference
from vrwkv.layers.packing import Grid
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


_OUR_BACKENDS = (None, "", "cpu")


class _NotPlainError(Exception):
    """The block has something that must be called."""


def run_if_plain(block: "Block", x: Tensor, grid: Grid) -> Tensor | None:
    """block(x, grid) by `eager_block`, or None where that cannot stand in for the modules.

    It can in eager inference on the CPU in float32, for blocks of the plain Vision-RWKV with norms first, while
    nothing has been hooked, replaced or wrapped, and no other backend has been asked for.
    """
    if type(x) is not Tensor or type(grid) is not tuple or not is_eager_inference(x) or not _fits(x, grid):
        return None
    if os.environ.get(ENVIRONMENT_VARIABLE) not in _OUR_BACKENDS or refuse_cpu(x) is not None or has_global_hooks():
        return None
    try:
        parts = _parts(block, x.shape[2])
    except _NotPlainError:
        return None
    from vrwkv.layers.eager_block import run_block

    return run_block(parts, x, grid)


def _fits(x: Tensor, grid: tuple[int, int]) -> bool:
    """Whether x is (B, T, C) as the loops read it, and the grid one for all images, which may have class tokens."""
    if x.dtype != torch.float32 or x.ndim != 3 or x.shape[2] % LANES or x.numel() == 0 or not x.is_contiguous():
        return False
    return len(grid) == 2 and min(grid) >= 1 and grid[0] * grid[1] <= x.shape[1]


def _parts(block: "Block", channels: int) -> PlainBlock:
    modules = block._modules
    for scale, drop_path in (("ls1", "drop_path1"), ("ls2", "drop_path2")):
        _checked(modules[scale], nn.Identity)
        drop = _checked(modules[drop_path], DropPath)
        if drop.training and drop.drop_prob:
            raise _NotPlainError
    spatial, channel = _mix(modules["spatial_mix"], SpatialMix), _mix(modules["channel_mix"], ChannelMix)
    if block.post_norm or not spatial.follows_paper:
        raise _NotPlainError
    square = (channels, channels)
    channel_key = _parameter(channel._modules["key"])
    hidden_channels = len(channel_key)
    if hidden_channels % LANES or channel_key.shape != (hidden_channels, channels):
        raise _NotPlainError
    decay, bonus = _vectors(spatial, ("decay", "bonus"), channels)
    return PlainBlock(
        norm1=_norm(modules["norm1"], channels),
        spatial_shares=_vectors(spatial, ("mix_k", "mix_v", "mix_r"), channels),
        spatial_shift=_shift(spatial),
        key=_weight(spatial, "key", square),
        value=_weight(spatial, "value", square),
        receptance=_weight(spatial, "receptance", square),
        output=_weight(spatial, "output", square),
        decay=decay,
        bonus=bonus,
        norm2=_norm(modules["norm2"], channels),
        channel_shares=_vectors(channel, ("mix_k", "mix_r"), channels),
        channel_shift=_shift(channel),
        channel_key=channel_key,
        channel_value=_weight(channel, "value", (channels, hidden_channels)),
        channel_receptance=_weight(channel, "receptance", square),
    )


def _checked(module: nn.Module | None, kind: type[Any]) -> Any:
    """The module, which is one of this very kind and does nothing but its `forward`."""
    if module is None or type(module) is not kind or "forward" in module.__dict__ or has_own_hooks(module):
        raise _NotPlainError
    return module


def _mix(module: nn.Module | None, kind: type[Any]) -> Any:
    mix = _checked(module, kind)
    if mix.backend not in _OUR_BACKENDS:
        raise _NotPlainError
    _checked(mix._modules["key_norm"], nn.Identity)
    return mix


def _norm(module: nn.Module | None, channels: int) -> tuple[Tensor, Tensor, float]:
    norm = _checked(module, nn.LayerNorm)
    weight, bias = _vectors(norm, ("weight", "bias"), channels)
    return weight, bias, norm.eps


def _shift(mix: nn.Module) -> tuple[int, float]:
    shift = _checked(mix._modules["token_shift"], TokenShift)
    if shift.num_heads != 1 or shift.shift_pixel < 1 or not 0 <= shift.channel_gamma <= 0.25:
        raise _NotPlainError
    return shift.shift_pixel, shift.channel_gamma


def _vectors(module: nn.Module, names: tuple[str, ...], channels: int) -> tuple[Tensor, ...]:
    vectors = []
    for name in names:
        vector = module._parameters.get(name)
        if not _is_plain(vector) or vector.shape != (channels,) or not vector.is_contiguous():
            raise _NotPlainError
        vectors.append(vector)
    return tuple(vectors)


def _weight(mix: nn.Module, name: str, shape: tuple[int, int]) -> Tensor:
    weight = _parameter(mix._modules[name])
    if weight.shape != shape:
        raise _NotPlainError
    return weight


def _parameter(module: nn.Module | None) -> Tensor:
    """The weight of a linear layer that is a product with it and nothing else."""
    parameters = _checked(module, nn.Linear)._parameters
    weight = parameters.get("weight")
    if not _is_plain(weight) or parameters.get("bias") is not None:
        raise _NotPlainError
    return weight


def _is_plain(parameter: Tensor | None) -> TypeGuard[nn.Parameter]:
    return (
        type(parameter) is nn.Parameter
        and parameter.dtype == torch.float32
        and parameter.is_cpu
        and parameter.layout == torch.strided
    )
