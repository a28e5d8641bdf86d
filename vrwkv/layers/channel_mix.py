"""Channel mix: the gated feed-forward of an RWKV block."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from vrwkv.layers.hooks import has_hooks
from vrwkv.layers.initialisation import fancy_mix
from vrwkv.layers.packing import Grid
from vrwkv.layers.scriptable_ops import sigmoid_gate, squared_relu
from vrwkv.layers.token_shift import TokenShift, shares_of_shifted
from vrwkv.ops.cpu_runtime.eager import runs_eagerly

# Larger memory is fresh from the system at every call, by glibc's rules: clearing its pages takes a fifth of the time
# of the channel mix at 16384 tokens of 192 channels, and half at 65536. Pieces of this size stay in a cache, too.
LARGEST_HIDDEN, HIDDEN_AT_ONCE = 32 << 20, 8 << 20  # bytes


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
        return sigmoid_gate(self.receptance(x_r), self._feed_forward(x_k), self.backend)

    def _feed_forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self.value(self.key_norm(squared_relu(self.key(x))))
        rows = self._rows_at_once(x)
        if rows == 0:
            return self.value(self.key_norm(squared_relu(self.key(x), self.backend)))
        y = x.new_empty(x.shape[0] * x.shape[1], self.value.out_features)
        for part, out in zip(x.flatten(0, 1).split(rows), y.split(rows), strict=True):
            out.copy_(self.value(self.key_norm(squared_relu(self.key(part), self.backend))))
        return y.view(*x.shape[:2], -1)

    def _rows_at_once(self, x: Tensor) -> int:
        """How many tokens pass through the hidden layer together; 0 for all."""
        if not runs_eagerly(x) or x.device.type != "cpu" or torch.is_grad_enabled():
            return 0
        row = self.key.out_features * x.element_size()
        if x.shape[0] * x.shape[1] * row <= LARGEST_HIDDEN or has_hooks(self.key, self.key_norm, self.value):
            return 0
        return max(1, HIDDEN_AT_ONCE // row)
