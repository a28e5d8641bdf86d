"""The parts of a backbone as plain modules over ops, for use in any model.

Mixers and blocks need no more than a width, and take (B, T, C) tokens in raster order with their grid (height, width):

    mix = SpatialMix(192)
    y = mix(x, (14, 14))  # x (B, 196, 192) -> y (B, 196, 192), in time linear in the number of tokens

`SpatialMix` and `SpatialMix6` mix tokens, `ChannelMix` channels; `Block` is both with norms and residuals. The grid may
change with every call. Tokens after the grid's (class tokens) take part in the mixing, but are not shifted. `pack` puts
images of different sizes end to end; the `PackedGrids` that it gives beside their tokens then takes the grid's place.
With one grid, all work in torch.compile, torch.export and TorchScript, and are single nodes to timm's torch.fx feature
extractors. `DeformableAttention` is for the adapter of dense prediction, and not for TorchScript.
"""

from vrwkv.layers.block import Block
from vrwkv.layers.channel_mix import ChannelMix
from vrwkv.layers.deformable_attention import DeformableAttention
from vrwkv.layers.packing import PackedGrids, pack
from vrwkv.layers.patch_embed import PatchEmbed
from vrwkv.layers.spatial_mix import SpatialMix
from vrwkv.layers.spatial_mix6 import SpatialMix6
from vrwkv.layers.token_shift import SequenceShift, TokenShift

__all__ = [
    "Block",
    "ChannelMix",
    "DeformableAttention",
    "PackedGrids",
    "PatchEmbed",
    "SequenceShift",
    "SpatialMix",
    "SpatialMix6",
    "TokenShift",
    "pack",
]
