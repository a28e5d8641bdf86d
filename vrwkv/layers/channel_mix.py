"""Channel mix: the gated feed-forward of an RWKV block."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from vrwkv.layers.hooks import may_keep
from vrwkv.layers.initialisation import fancy_mix
from vrwkv.layers.large_inputs import linear_into, rows_at_once
from vrwkv.layers.packing import Grid
from vrwkv.layers.scriptable_ops import sigmoid_gate, squared_relu
from vrwkv.layers.token_shift import TokenShift, shares_of_shifted


@register_notrace_module
class ChannelMix(nn.Module):
    """sigmoid(W_r x_r) · W_v relu(W_k x_k)², with x_k and x_r mixed from the token and its shifted neighbours.

    Vision-RWKV (arXiv 2403.02308), Eq. 4, as released: no output projection.

    Args:
        dim: channels.
        hidden_dim: width of the squared-ReLU layer.
        layer, depth: index of the block and number of blocks; only the starting values depend on them.
        num_heads: heads inside which the token shift groups channels.
        shift_pixel: distance of the token shift; 0 leaves out the shift and its parameters.
        channel_gamma: share of channels shifted in each direction.
        key_norm: normalise the hidden layer.
        init_mode: "fancy", "local" or "global", the published starting values.
        backend: backend of the ops; by default the best that can run.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int | None = None,
        *,
        layer: int = 0,
        depth: int = 1,
        num_heads: int = 1,
        shift_pixel: int = 1,
        channel_gamma: float = 0.25,
        key_norm: bool = False,
        init_mode: str = "fancy",
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        hidden_dim = hidden_dim if hidden_dim is not None else 4 * dim
        self.layer, self.depth, self.init_mode, self.backend = layer, depth, init_mode, backend
        self.token_shift = TokenShift(num_heads, shift_pixel, channel_gamma) if shift_pixel > 0 else None
        if self.token_shift is not None:
            self.mix_k = nn.Parameter(torch.empty(dim, **factory))
            self.mix_r = nn.Parameter(torch.empty(dim, **factory))
        self.key = nn.Linear(dim, hidden_dim, bias=False, **factory)
        self.key_norm = nn.LayerNorm(hidden_dim, **factory) if key_norm else nn.Identity()
        self.receptance = nn.Linear(dim, dim, bias=False, **factory)
        self.value = nn.Linear(hidden_dim, dim, bias=False, **factory)
        self.reset_mix_parameters()

    @torch.no_grad()
    def reset_mix_parameters(self) -> None:
        """Set the mixes to the published starting values; the matrices are left alone."""
        if self.token_shift is None:
            return
        for mix in (self.mix_k, self.mix_r):
            if self.init_mode == "fancy":
                mix.copy_(fancy_mix(mix.shape[0], self.layer, self.depth, "key"))
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
        """Each token's channels mixed; arguments and result as `SpatialMix.forward`."""
        if self.token_shift is None:
            if norm_weight is not None:
                x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, norm_eps)
            x_k = x_r = x
        else:
            share = shares_of_shifted([self.mix_k, self.mix_r])
            x_k, x_r = self.token_shift.mix(
                x,
                share,
                grid,
                norm_weight=norm_weight,
                norm_bias=norm_bias,
                norm_eps=norm_eps,
                backend=self.backend,
            )
        if not torch.jit.is_scripting():
            # The widest result is the hidden layer. Mixtures are read by nobody else, so they can be overwritten.
            row_bytes = self.key.out_features * x_k.element_size()
            rows = rows_at_once(x_k, row_bytes, self.key, self.key_norm, self.value, self.receptance)
            if rows > 0:
                return self._gated_in_rows(x_k, x_r, torch.empty_like(x_k) if self.token_shift is None else x_k, rows)
        return self._gated(x_k, x_r)

    def _gated(self, x_k: Tensor, x_r: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            hidden = squared_relu(self.key(x_k))
        else:
            # Somebody may have kept the result that is overwritten here.
            hidden = squared_relu(linear_into(self.key, x_k), self.backend, not may_keep(self.key))
            value = linear_into(self.value, self.key_norm(hidden))
            return sigmoid_gate(linear_into(self.receptance, x_r), value, self.backend)
        return sigmoid_gate(self.receptance(x_r), self.value(self.key_norm(hidden)), self.backend)

    @torch.jit.unused
    def _gated_in_rows(self, x_k: Tensor, x_r: Tensor, out: Tensor, rows: int) -> Tensor:
        """As `_gated`, so many tokens at a time; `out` may be `x_k`."""
        for part, own_k, own_r in zip(*(tensor.flatten(0, 1).split(rows) for tensor in (out, x_k, x_r)), strict=True):
            part.copy_(self._gated(own_k, own_r))
        return out
