"""The parts of a backbone as plain modules over ops; each takes (B, T, C) tokens and their grid (height, width)."""

from vrwkv.layers.block import Block
from vrwkv.layers.channel_mix import ChannelMix
from vrwkv.layers.patch_embed import PatchEmbed
from vrwkv.layers.spatial_mix import SpatialMix
from vrwkv.layers.spatial_mix6 import SpatialMix6
from vrwkv.layers.token_shift import SequenceShift, TokenShift

__all__ = ["Block", "ChannelMix", "PatchEmbed", "SequenceShift", "SpatialMix", "SpatialMix6", "TokenShift"]
