"""The text block of RWKV-CLIP: bidirectional RWKV-6 over tokens, shifted both ways."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from vrwkv.layers import SequenceShift, SpatialMix6
from vrwkv.layers.initialisation import fancy_mix
from vrwkv.ops import sigmoid_gate, squared_relu

HEAD_NORM_EPS = 6.4e-4  # 1e-5 · 8², for receptances and keys that are not scaled by 1/8


class TimeMix(SpatialMix6):
    """`SpatialMix6` along text: half of each head looks one token back, the other half one ahead."""

    def __init__(self, dim: int, num_heads: int, *, layer: int = 0, depth: int = 1, **kwargs: Any) -> None:
        super().__init__(dim, num_heads, layer=layer, depth=depth, norm_eps=HEAD_NORM_EPS, **kwargs)
        self.token_shift = SequenceShift(num_heads)


class TextChannelMix(nn.Module):
    """sigmoid(W_r x_r) · W_v relu(W_k x_k)²; the mixes weigh the shifted token, in the image tower the token itself.

    Args:
        dim: channels.
        hidden_dim: width of the squared-ReLU layer.
        num_heads: heads inside which the shift splits channels.
        layer, depth: index of the block and number of blocks; only the starting values depend on them.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        num_heads: int,
        *,
        layer: int = 0,
        depth: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.token_shift = SequenceShift(num_heads)
        mix = 1 - fancy_mix(dim, layer, depth, "key")
        self.mix_k = nn.Parameter(torch.empty(dim, **factory).copy_(mix))
        self.mix_r = nn.Parameter(torch.empty(dim, **factory).copy_(mix))
        self.key = nn.Linear(dim, hidden_dim, bias=False, **factory)
        self.receptance = nn.Linear(dim, dim, bias=False, **factory)
        self.value = nn.Linear(hidden_dim, dim, bias=False, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x_k, x_r = self.token_shift.mix(x, torch.stack((self.mix_k, self.mix_r)))
        return sigmoid_gate(self.receptance(x_r), self.value(squared_relu(self.key(x_k), inplace=True)))


class Rwkv6BiBlock(nn.Module):
    """x + time_mix(norm1(x)), then x + channel_mix(norm2(x)).

    Args:
        dim: channels.
        num_heads: heads of the mixer and the shift.
        hidden_dim: width of the channel mix.
        layer, depth: index of the block and number of blocks; only the starting values depend on them.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        *,
        layer: int = 0,
        depth: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.layer, self.depth = layer, depth
        self.norm1 = nn.LayerNorm(dim, **factory)
        self.time_mix = TimeMix(dim, num_heads, layer=layer, depth=depth, **factory)
        self.norm2 = nn.LayerNorm(dim, **factory)
        self.channel_mix = TextChannelMix(dim, hidden_dim, num_heads, layer=layer, depth=depth, **factory)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """RWKV-CLIP's start: orthogonal inputs, zero outputs, so that the block is the identity at first."""
        mix, channel = self.time_mix, self.channel_mix
        for down, up in ((mix.mix_down, mix.mix_up), (mix.decay_down, mix.decay_up)):
            nn.init.zeros_(down)
            nn.init.uniform_(up, -0.01, 0.01)
        mix.head_norm.weight.fill_(((1 + self.layer) / self.depth) ** 0.7)
        for linear, scale in (
            (mix.receptance, 1.0),
            (mix.value, 1.0),
            (mix.key, 0.1),
            (mix.gate, 0.1),
            (channel.key, 0.5),
        ):
            _orthogonal(linear.weight, scale)
        for linear in (mix.output, channel.value, channel.receptance):
            nn.init.zeros_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.time_mix(self.norm1(x), (1, x.shape[1]))
        return x + self.channel_mix(self.norm2(x))


def _orthogonal(weight: Tensor, scale: float) -> None:
    """Orthogonal matrix, larger by √(out/in) where it widens; computed in float32 on the CPU for all."""
    if weight.is_meta:
        return
    rows, columns = weight.shape
    gain = math.sqrt(rows / columns) if rows > columns else 1.0
    matrix = torch.empty(rows, columns, dtype=torch.float32, device="cpu")
    weight.copy_(nn.init.orthogonal_(matrix, gain=gain * scale))
