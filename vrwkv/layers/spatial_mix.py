"""Spatial mix of Vision-RWKV: every token gathers from all others through Bi-WKV, gated by its receptance."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn
from torch.jit import Final

from vrwkv.layers.initialisation import fancy_bonus, fancy_decay, fancy_mix
from vrwkv.layers.large_inputs import linear_into
from vrwkv.layers.packing import Grid, boundaries
from vrwkv.layers.scriptable_ops import bi_wkv, bi_wkv_published, sigmoid_gate
from vrwkv.layers.token_shift import TokenShift, shares_of_shifted

INIT_MODES = ("fancy", "local", "global")
FORMULAS = ("paper", "published")


@register_notrace_module
class SpatialMix(nn.Module):
    """The token mixer of VRWKV-T/S/B/L (arXiv 2403.02308, section 3; released class VRWKV_SpatialMix).

    k, v and r are linear in the token mixed with its shifted neighbours; y = Bi-WKV(decay, bonus, k, v); the output is
    linear in sigmoid(r) · y.

    Args:
        dim: channels.
        layer: index of the block, from 0; only the starting values depend on it.
        depth: number of blocks; likewise.
        shift_pixel: distance of the token shift; 0 leaves out the shift and its parameters.
        channel_gamma: share of channels shifted in each direction.
        key_norm: normalise the output of Bi-WKV (the published name says key).
        init_mode: "fancy", "local" or "global", the published starting values.
        formula: "paper" for Bi-WKV as the paper has it, "published" for what the released kernels compute.
        backend: backend of the ops; by default the best that can run.
        device, dtype: of the parameters.
    """

    follows_paper: Final[bool]
    has_key_norm: Final[bool]

    def __init__(
        self,
        dim: int,
        *,
        layer: int = 0,
        depth: int = 1,
        shift_pixel: int = 1,
        channel_gamma: float = 0.25,
        key_norm: bool = False,
        init_mode: str = "fancy",
        formula: str = "paper",
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if init_mode not in INIT_MODES:
            raise ValueError(f"init_mode must be one of {INIT_MODES}, not {init_mode!r}")
        if formula not in FORMULAS:
            raise ValueError(f"formula must be one of {FORMULAS}, not {formula!r}")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.layer, self.depth, self.init_mode = layer, depth, init_mode
        self.formula, self.follows_paper, self.backend = formula, formula == "paper", backend
        self.token_shift = TokenShift(1, shift_pixel, channel_gamma) if shift_pixel > 0 else None
        self.decay = nn.Parameter(torch.empty(dim, **factory))
        self.bonus = nn.Parameter(torch.empty(dim, **factory))
        if self.token_shift is not None:
            self.mix_k = nn.Parameter(torch.empty(dim, **factory))
            self.mix_v = nn.Parameter(torch.empty(dim, **factory))
            self.mix_r = nn.Parameter(torch.empty(dim, **factory))
        self.key = nn.Linear(dim, dim, bias=False, **factory)
        self.value = nn.Linear(dim, dim, bias=False, **factory)
        self.receptance = nn.Linear(dim, dim, bias=False, **factory)
        self.has_key_norm = key_norm
        self.key_norm = nn.LayerNorm(dim, **factory) if key_norm else nn.Identity()
        self.output = nn.Linear(dim, dim, bias=False, **factory)
        self.reset_mix_parameters()

    @torch.no_grad()
    def reset_mix_parameters(self) -> None:
        """Set decay, bonus and mixes to the published starting values; the matrices are left alone."""
        dim = self.decay.shape[0]
        fancy = self.init_mode == "fancy"
        flat = 1.0 if self.init_mode == "local" else 0.0
        if fancy:
            self.decay.copy_(fancy_decay(dim, self.layer, self.depth, -5.0, 3.0))
            self.bonus.copy_(fancy_bonus(dim))
        else:
            self.decay.fill_(flat)
            self.bonus.fill_(flat)
        if self.token_shift is not None:
            for mix, role in ((self.mix_k, "key"), (self.mix_v, "value"), (self.mix_r, "receptance")):
                if fancy:
                    mix.copy_(fancy_mix(dim, self.layer, self.depth, role))
                else:
                    mix.fill_(1.0 if self.init_mode == "local" else 0.5)

    def forward(
        self,
        x: Tensor,
        grid: Grid,
        norm_weight: Tensor | None = None,
        norm_bias: Tensor | None = None,
        norm_eps: float = 1e-5,
    ) -> Tensor:
        """Tokens mixed with each other.

        Args:
            x: (B, T, C) tokens in raster order; those after the grid (class tokens) are not shifted.
            grid: (height, width) in tokens; `vrwkv.layers.PackedGrids` where x (1, ΣT, C) holds images end to end.
            norm_weight, norm_bias, norm_eps: of a layer norm to apply to `x` first, in one pass with the token shift.

        Returns:
            (B, T, C).
        """
        if self.token_shift is None:
            if norm_weight is not None:
                x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, norm_eps)
            x_k = x_v = x_r = x
        else:
            share = shares_of_shifted([self.mix_k, self.mix_v, self.mix_r])
            x_k, x_v, x_r = self.token_shift.mix(
                x,
                share,
                grid,
                norm_weight=norm_weight,
                norm_bias=norm_bias,
                norm_eps=norm_eps,
                backend=self.backend,
            )
        cu_seqlens = boundaries(grid)
        if torch.jit.is_scripting() or self.token_shift is None:
            k, v, gate = self.key(x_k), self.value(x_v), self.receptance(x_r)
        else:
            # Mixtures are read by nobody else: each one's memory takes the next result.
            k, v = linear_into(self.key, x_k), linear_into(self.value, x_v, x_k, self.key)
            gate = linear_into(self.receptance, x_r, x_v, self.value)
        if not self.follows_paper:
            y = bi_wkv_published(self.decay, self.bonus, k, v, cu_seqlens)
            y = sigmoid_gate(gate, self.key_norm(y), self.backend)
        elif not self.has_key_norm:
            y = bi_wkv(self.decay, self.bonus, k, v, gate, cu_seqlens, self.backend)
        else:
            y = bi_wkv(self.decay, self.bonus, k, v, None, cu_seqlens, self.backend)
            y = sigmoid_gate(gate, self.key_norm(y), self.backend)
        if torch.jit.is_scripting() or self.token_shift is None:
            return self.output(y)
        return linear_into(self.output, y, x_r, self.receptance)
