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
from vrwkv.layers.spatial_mix6 import DECAY_RANK, MIX_RANK, SpatialMix6
from vrwkv.layers.token_shift import TokenShift
from vrwkv.ops.bi_wkv6.cpu import LARGEST_HEAD
from vrwkv.ops.cpu_runtime.refusal import refuse_cpu
from vrwkv.ops.dispatch import ALLOW_CPU, ENVIRONMENT_VARIABLE
from vrwkv.ops.shift_mix.settings import Norm, Shift

if TYPE_CHECKING:
    from vrwkv.layers.block import Block

LANES = 16  # channels that the compiled loops take at once; they have no last block that overlaps here


class PlainSpatial(NamedTuple):
    """Parameters and settings of a `SpatialMix`; `shares` are of the token itself in each mixture."""

    shares: tuple[Tensor, ...]
    shift: Shift
    key: Tensor
    value: Tensor
    receptance: Tensor
    output: Tensor
    decay: Tensor
    bonus: Tensor


class PlainSpatial6(NamedTuple):
    """Parameters and settings of a `SpatialMix6`; shares are of the shifted token, `head_norm` has the norm's."""

    first_share: Tensor
    shares: tuple[Tensor, ...]
    shift: Shift
    mix_down: Tensor
    mix_up: Tensor
    decay: Tensor
    decay_down: Tensor
    decay_up: Tensor
    receptance: Tensor
    key: Tensor
    value: Tensor
    gate: Tensor
    output: Tensor
    bonus: Tensor
    head_norm: Norm


class PlainBlock(NamedTuple):
    """Parameters and settings of a block; `channel_*` are of its channel mix, its shares those of the token itself."""

    norm1: Norm
    spatial: PlainSpatial | PlainSpatial6
    norm2: Norm
    channel_shares: tuple[Tensor, ...]
    channel_shift: Shift
    channel_key: Tensor
    channel_value: Tensor
    channel_receptance: Tensor


class _NotPlainError(Exception):
    """The block has something that must be called."""


def run_if_plain(block: "Block", x: Tensor, grid: Grid) -> Tensor | None:
    """block(x, grid) by `eager_block`, or None where that cannot stand in for the modules.

    It can in eager inference on the CPU in float32, for blocks of the plain Vision-RWKV and VRWKV6 with norms first,
    while nothing has been hooked, replaced or wrapped, and no other backend has been asked for.
    """
    if type(x) is not Tensor or type(grid) is not tuple or not is_eager_inference(x) or not _fits(x, grid):
        return None
    if os.environ.get(ENVIRONMENT_VARIABLE) not in ALLOW_CPU or refuse_cpu(x) is not None or has_global_hooks():
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
    channel = _mix(modules["channel_mix"], ChannelMix)
    if block.post_norm:
        raise _NotPlainError
    spatial = _spatial6 if type(modules["spatial_mix"]) is SpatialMix6 else _spatial
    channel_key = _parameter(channel._modules["key"])
    hidden_channels = len(channel_key)
    if hidden_channels % LANES or channel_key.shape != (hidden_channels, channels):
        raise _NotPlainError
    return PlainBlock(
        norm1=_norm(modules["norm1"], channels),
        spatial=spatial(modules["spatial_mix"], channels),
        norm2=_norm(modules["norm2"], channels),
        channel_shares=_vectors(channel, ("mix_k", "mix_r"), channels),
        channel_shift=_shift(channel, channels),
        channel_key=channel_key,
        channel_value=_weight(channel, "value", (channels, hidden_channels)),
        channel_receptance=_weight(channel, "receptance", (channels, channels)),
    )


def _spatial(module: nn.Module | None, channels: int) -> PlainSpatial:
    mix = _mix(module, SpatialMix)
    if not mix.follows_paper:
        raise _NotPlainError
    square = (channels, channels)
    decay, bonus = _vectors(mix, ("decay", "bonus"), channels)
    return PlainSpatial(
        shares=_vectors(mix, ("mix_k", "mix_v", "mix_r"), channels),
        shift=_shift(mix, channels),
        key=_weight(mix, "key", square),
        value=_weight(mix, "value", square),
        receptance=_weight(mix, "receptance", square),
        output=_weight(mix, "output", square),
        decay=decay,
        bonus=bonus,
    )


def _spatial6(module: nn.Module | None, channels: int) -> PlainSpatial6:
    mix = _mix(module, SpatialMix6)
    head_channels, square = channels // max(mix.num_heads, 1), (channels, channels)
    bonus = _tensor(mix, "bonus", (mix.num_heads, head_channels))
    if head_channels % LANES or head_channels > LARGEST_HEAD or not bonus.is_contiguous():
        raise _NotPlainError
    first_share, decay = _vectors(mix, ("mix_x", "decay"), channels)
    weight, bias = _vectors(_checked(mix._modules["head_norm"], nn.GroupNorm), ("weight", "bias"), channels)
    return PlainSpatial6(
        first_share=first_share,
        shares=_vectors(mix, ("mix_w", "mix_k", "mix_v", "mix_r", "mix_g"), channels),
        shift=_shift(mix, channels),
        mix_down=_tensor(mix, "mix_down", (channels, 5 * MIX_RANK)),
        mix_up=_tensor(mix, "mix_up", (5, MIX_RANK, channels)),
        decay=decay,
        decay_down=_tensor(mix, "decay_down", (channels, DECAY_RANK)),
        decay_up=_tensor(mix, "decay_up", (DECAY_RANK, channels)),
        receptance=_weight(mix, "receptance", square),
        key=_weight(mix, "key", square),
        value=_weight(mix, "value", square),
        gate=_weight(mix, "gate", square),
        output=_weight(mix, "output", square),
        bonus=bonus,
        head_norm=Norm(weight, bias, mix.norm_eps),
    )


def _checked(module: nn.Module | None, kind: type[Any]) -> Any:
    """The module, which is one of this very kind and does nothing but its `forward`."""
    if module is None or type(module) is not kind or "forward" in module.__dict__ or has_own_hooks(module):
        raise _NotPlainError
    return module


def _mix(module: nn.Module | None, kind: type[Any]) -> Any:
    mix = _checked(module, kind)
    if mix.backend not in ALLOW_CPU or "_decays" in mix.__dict__:  # somebody looks on (`vrwkv.visualize`)
        raise _NotPlainError
    _checked(mix._modules["key_norm"], nn.Identity)
    return mix


def _norm(module: nn.Module | None, channels: int) -> Norm:
    norm = _checked(module, nn.LayerNorm)
    weight, bias = _vectors(norm, ("weight", "bias"), channels)
    return Norm(weight, bias, norm.eps)


def _shift(mix: nn.Module, channels: int) -> Shift:
    shift = _checked(mix._modules["token_shift"], TokenShift)
    if shift.num_heads < 1 or channels % shift.num_heads:
        raise _NotPlainError
    if shift.shift_pixel < 1 or not 0 <= shift.channel_gamma <= 0.25:
        raise _NotPlainError
    return Shift(shift.shift_pixel, shift.channel_gamma, shift.num_heads)


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


def _tensor(module: nn.Module, name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = module._parameters.get(name)
    if not _is_plain(tensor) or tensor.shape != shape:
        raise _NotPlainError
    return tensor


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
