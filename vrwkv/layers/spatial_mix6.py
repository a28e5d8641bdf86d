"""Spatial mix of VRWKV6 and RWKV-CLIP: bidirectional RWKV-6 with data-dependent mixing and decay."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from vrwkv.layers.initialisation import fancy_bonus6, fancy_decay, fancy_mix
from vrwkv.layers.large_inputs import linear_into
from vrwkv.layers.packing import Grid, boundaries
from vrwkv.layers.scriptable_ops import bi_wkv6, head_norm_gate, tanh
from vrwkv.layers.token_shift import SequenceShift, TokenShift

MIX_RANK = 32
DECAY_RANK = 64


@register_notrace_module
class SpatialMix6(nn.Module):
    """The token mixer of VRWKV6-T/S/B and of RWKV-CLIP's image tower (released classes VRWKV_SpatialMix_V6).

    The token is mixed with its shifted neighbours by learnt weights plus a low-rank correction computed from the token
    itself; from the five mixtures come the decay w, the key k, the value v, the receptance r and the gate g.
    y = Bi-WKV6(r, k, v, w, bonus), normalised per head; the output is linear in y · silu(g).

    Args:
        dim: channels.
        num_heads: heads of the mixer, and of the token shift; by default heads of 64 channels.
        layer, depth: index of the block and number of blocks; only the starting values depend on them.
        shift_pixel: distance of the token shift; 0 mixes each token with itself.
        channel_gamma: share of a head's channels shifted in each direction.
        key_norm: normalise the output of Bi-WKV6 over all channels before the norm per head.
        norm_eps: epsilon of the norm per head.
        backend: backend of the ops; by default the best that can run.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        *,
        layer: int = 0,
        depth: int = 1,
        shift_pixel: int = 1,
        channel_gamma: float = 0.25,
        key_norm: bool = False,
        norm_eps: float = 1e-5,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        num_heads = num_heads if num_heads is not None else max(dim // 64, 1)
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads must divide dim {dim}, not {num_heads}")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_heads, self.layer, self.depth, self.norm_eps, self.backend = num_heads, layer, depth, norm_eps, backend
        self.token_shift: TokenShift | SequenceShift = TokenShift(num_heads, shift_pixel, channel_gamma)
        self.mix_x = nn.Parameter(torch.empty(dim, **factory))
        self.mix_w = nn.Parameter(torch.empty(dim, **factory))
        self.mix_k = nn.Parameter(torch.empty(dim, **factory))
        self.mix_v = nn.Parameter(torch.empty(dim, **factory))
        self.mix_r = nn.Parameter(torch.empty(dim, **factory))
        self.mix_g = nn.Parameter(torch.empty(dim, **factory))
        self.mix_down = nn.Parameter(torch.empty(dim, 5 * MIX_RANK, **factory))
        self.mix_up = nn.Parameter(torch.empty(5, MIX_RANK, dim, **factory))
        self.decay = nn.Parameter(torch.empty(dim, **factory))
        self.decay_down = nn.Parameter(torch.empty(dim, DECAY_RANK, **factory))
        self.decay_up = nn.Parameter(torch.empty(DECAY_RANK, dim, **factory))
        self.bonus = nn.Parameter(torch.empty(num_heads, dim // num_heads, **factory))
        self.receptance = nn.Linear(dim, dim, bias=False, **factory)
        self.key = nn.Linear(dim, dim, bias=False, **factory)
        self.value = nn.Linear(dim, dim, bias=False, **factory)
        self.gate = nn.Linear(dim, dim, bias=False, **factory)
        self.key_norm = nn.LayerNorm(dim, **factory) if key_norm else nn.Identity()
        self.head_norm = nn.GroupNorm(num_heads, dim, eps=norm_eps, **factory)
        self.output = nn.Linear(dim, dim, bias=False, **factory)
        self.reset_mix_parameters()

    @torch.no_grad()
    def reset_mix_parameters(self) -> None:
        """Set mixes, decay and bonus to the published starting values; the square matrices are left alone."""
        dim = self.decay.shape[0]
        for mixes, role in (
            ((self.mix_x, self.mix_w, self.mix_k), "key"),
            ((self.mix_v,), "value"),
            ((self.mix_r, self.mix_g), "receptance"),
        ):
            # Here the mix weighs the shifted token, in Bi-WKV's layers the token itself.
            share = 1 - fancy_mix(dim, self.layer, self.depth, role)
            for mix in mixes:
                mix.copy_(share)
        self.decay.copy_(fancy_decay(dim, self.layer, self.depth, -6.0, -1.0))
        self.bonus.copy_(fancy_bonus6(dim, self.layer, self.depth).view_as(self.bonus))
        for low_rank in (self.mix_down, self.mix_up, self.decay_down, self.decay_up):
            nn.init.uniform_(low_rank, -1e-4, 1e-4)

    def forward(
        self,
        x: Tensor,
        grid: Grid,
        norm_weight: Tensor | None = None,
        norm_bias: Tensor | None = None,
        norm_eps: float = 1e-5,
    ) -> Tensor:
        """Tokens mixed with each other; arguments and result as `SpatialMix.forward`."""
        if norm_weight is not None:
            x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, norm_eps)
        first = self.token_shift.mix(x, self.mix_x[None], grid, backend=self.backend)[0]
        low_rank = tanh(first @ self.mix_down, self.backend).flatten(0, 1).unflatten(-1, self.mix_up.shape[:2])
        corrections = torch.bmm(low_rank.transpose(0, 1), self.mix_up).unflatten(1, x.shape[:2])
        share = torch.stack((self.mix_w, self.mix_k, self.mix_v, self.mix_r, self.mix_g))
        x_w, x_k, x_v, x_r, x_g = self.token_shift.mix(
            x, share, grid, correction=corrections.to(x.dtype), backend=self.backend
        )
        w = self._decays(x_w)
        if torch.jit.is_scripting():
            r, k, v, gate = self.receptance(x_r), self.key(x_k), self.value(x_v), self.gate(x_g)
        else:
            # Mixtures are read by nobody else: each one's memory takes the next result.
            r = linear_into(self.receptance, x_r, x_w)
            k = linear_into(self.key, x_k, x_r, self.receptance)
            v = linear_into(self.value, x_v, x_k, self.key)
            gate = linear_into(self.gate, x_g, x_v, self.value)
        r, k, v, w = (tensor.unflatten(-1, (self.num_heads, -1)) for tensor in (r, k, v, w))
        y = self.key_norm(bi_wkv6(r, k, v, w, self.bonus, boundaries(grid), self.backend).flatten(2))
        gated = head_norm_gate(
            y,
            gate.to(y.dtype),  # autocast leaves a key norm in float32
            self.head_norm.weight,
            self.head_norm.bias,
            self.num_heads,
            self.norm_eps,
            self.backend,
        )
        return self.output(gated) if torch.jit.is_scripting() else linear_into(self.output, gated, x_g, self.gate)

    def _decays(self, x: Tensor) -> Tensor:
        """w (B, T, C): `decay` plus a low-rank correction computed from the mixture (B, T, C)."""
        low_rank = tanh(x @ self.decay_down, self.backend)
        if low_rank.dtype != self.decay.dtype:  # under autocast the sum keeps the dtype of `decay`
            return self.decay + low_rank @ self.decay_up
        return torch.addmm(self.decay, low_rank.flatten(0, 1), self.decay_up).unflatten(0, x.shape[:2])
