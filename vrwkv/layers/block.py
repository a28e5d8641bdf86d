"""One RWKV block: spatial mix and channel mix, each with its norm, layer scale and residual."""

from typing import Any

import torch
from timm.layers import LayerScale
from torch import Tensor, nn

from vrwkv.layers.channel_mix import ChannelMix
from vrwkv.layers.drop_path import DropPath
from vrwkv.layers.hooks import has_hooks
from vrwkv.layers.large_inputs import add_residual
from vrwkv.layers.packing import Grid
from vrwkv.layers.plain_block import run_if_plain
from vrwkv.layers.spatial_mix import SpatialMix
from vrwkv.layers.spatial_mix6 import SpatialMix6

MIXERS = ("bi_wkv", "bi_wkv6")


class Block(nn.Module):
    """x + scale · mix(norm(x)) twice; with `post_norm`, x + scale · norm(mix(x)) (res-post-norm, as released).

    Args:
        dim: channels.
        mixer: "bi_wkv" (Vision-RWKV) or "bi_wkv6" (VRWKV6, RWKV-CLIP).
        num_heads: heads of bi_wkv6; by default heads of 64 channels. bi_wkv has none.
        mlp_ratio: hidden width of the channel mix over `dim` (published name: hidden_rate).
        layer, depth: index of the block and number of blocks; only the starting values depend on them.
        drop_path: probability of dropping a residual branch per sample.
        init_values: starting value of the layer scale; None leaves it out.
        shift_pixel, channel_gamma, key_norm, init_mode, formula, backend: as in `SpatialMix`.
        post_norm: normalise each branch's output instead of its input.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        dim: int,
        *,
        mixer: str = "bi_wkv",
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        layer: int = 0,
        depth: int = 1,
        drop_path: float = 0.0,
        init_values: float | None = None,
        shift_pixel: int = 1,
        channel_gamma: float = 0.25,
        key_norm: bool = False,
        post_norm: bool = False,
        init_mode: str = "fancy",
        formula: str = "paper",
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        shared: dict[str, Any] = {
            "layer": layer,
            "depth": depth,
            "shift_pixel": shift_pixel,
            "channel_gamma": channel_gamma,
            "key_norm": key_norm,
            "backend": backend,
            **factory,
        }
        self.post_norm = post_norm
        self.norm1 = nn.LayerNorm(dim, **factory)
        self.spatial_mix: SpatialMix | SpatialMix6
        if mixer == "bi_wkv":
            if num_heads not in (None, 1):
                raise ValueError(f"num_heads must be left out with mixer 'bi_wkv', which has no heads, not {num_heads}")
            shift_heads = 1
            self.spatial_mix = SpatialMix(dim, init_mode=init_mode, formula=formula, **shared)
        elif mixer == "bi_wkv6":
            if formula != "paper" or init_mode != "fancy":
                raise ValueError(
                    f"mixer 'bi_wkv6' has formula 'paper' and init_mode 'fancy' only, not {formula!r} and {init_mode!r}"
                )
            self.spatial_mix = SpatialMix6(dim, num_heads, **shared)
            shift_heads = self.spatial_mix.num_heads
        else:
            raise ValueError(f"mixer must be one of {MIXERS}, not {mixer!r}")
        self.ls1 = LayerScale(dim, init_values=init_values, **factory) if init_values is not None else nn.Identity()
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, **factory)
        # The small term makes up for a ratio of integers that was rounded down.
        hidden_dim = int(mlp_ratio * dim + 1e-6)
        self.channel_mix = ChannelMix(dim, hidden_dim, num_heads=shift_heads, init_mode=init_mode, **shared)
        self.ls2 = LayerScale(dim, init_values=init_values, **factory) if init_values is not None else nn.Identity()
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, T, C) tokens in raster order over grid (height, width), or packed ones, -> the same shape."""
        if self.post_norm:
            x = x + self.drop_path1(self.ls1(self.norm1(self.spatial_mix(x, grid))), grid)
            return x + self.drop_path2(self.ls2(self.norm2(self.channel_mix(x, grid))), grid)
        if torch.jit.is_scripting():
            x = x + self.drop_path1(self.ls1(self.spatial_mix(self.norm1(x), grid)), grid)
            return x + self.drop_path2(self.ls2(self.channel_mix(self.norm2(x), grid)), grid)
        done = run_if_plain(self, x, grid)
        if done is not None:
            return done
        branch = self.drop_path1(self.ls1(_mix_normalised(self.spatial_mix, self.norm1, x, grid)), grid)
        x = add_residual(x, branch, self.spatial_mix, self.ls1, self.drop_path1)
        branch = self.drop_path2(self.ls2(_mix_normalised(self.channel_mix, self.norm2, x, grid)), grid)
        return add_residual(x, branch, self.channel_mix, self.ls2, self.drop_path2)


def _mix_normalised(mix: nn.Module, norm: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    """mix(norm(x)); the norm is left to the mix, which applies it in passing, unless somebody looks on.

    Tracers do, which have a stand-in for the tensor: features are taken after norms, too.
    """
    if isinstance(x, Tensor) and _is_plain_layer_norm(norm):
        return mix(x, grid, norm.weight, norm.bias, norm.eps)
    return mix(norm(x), grid)


def _is_plain_layer_norm(norm: nn.Module) -> bool:
    """Whether `norm` is a LayerNorm over channels and nothing else, hooks included, depends on its being called."""
    return type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None and not has_hooks(norm)
