"""Which tokens of an image an encoder sees, and the token shift among them: from true neighbours, zero if hidden.

The kept tokens stay in raster order, so that Bi-WKV's distances mean what they mean in a whole image.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrwkv.layers import TokenShift
from vrwkv.layers.packing import Grid


@dataclass(frozen=True)
class KeptTokens:
    """The tokens that are left of each image of a batch; stands where blocks expect the grid."""

    grid: tuple[int, int]
    """(height, width) of the whole image in tokens."""
    index: Tensor
    """(B, K) int64, ascending: places of the kept tokens in raster order."""
    _neighbours: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def select(self, x: Tensor) -> Tensor:
        """The kept ones of all tokens: (B, T, C) -> (B, K, C)."""
        return x.gather(1, self.index[..., None].expand(-1, -1, x.shape[2]))

    def scatter(self, x: Tensor, fill: Tensor) -> Tensor:
        """Kept tokens (B, K, C) in their places among all, with `fill` (C,) in the others: (B, T, C)."""
        whole = fill.to(x.dtype).expand(x.shape[0], self.grid[0] * self.grid[1], -1)
        return whole.scatter(1, self.index[..., None].expand(-1, -1, x.shape[2]), x)

    def hidden(self) -> Tensor:
        """(B, T) bool: True where a token is not kept."""
        batch, device = self.index.shape[0], self.index.device
        everywhere = torch.ones(batch, self.grid[0] * self.grid[1], dtype=torch.bool, device=device)
        return everywhere.scatter(1, self.index, False)

    def neighbours(self, distance: int) -> Tensor:
        """(B, 4, K): where, among the kept, the left, right, upper and lower neighbours are; K where there is none."""
        if distance not in self._neighbours:
            height, width = self.grid
            batch, kept = self.index.shape
            nowhere = height * width
            place = self.index.new_full((batch, nowhere + 1), kept)
            place = place.scatter(1, self.index, torch.arange(kept, device=self.index.device).expand(batch, -1))
            row, column = self.index // width, self.index % width
            sought = []
            for down, right in ((0, -distance), (0, distance), (-distance, 0), (distance, 0)):
                r, c = row + down, column + right
                inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
                sought.append(torch.where(inside, r * width + c, nowhere))
            self._neighbours[distance] = place.gather(1, torch.cat(sought, 1)).unflatten(1, (4, kept))
        return self._neighbours[distance]


def random_kept_tokens(
    batch: int,
    grid: tuple[int, int],
    mask_ratio: float,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> KeptTokens:
    """Keep a random share 1 - mask_ratio of each image's tokens, at least one and not all.

    Args:
        batch: number of images.
        grid: (height, width) in tokens.
        mask_ratio: share of tokens to hide.
        device: of the result.
        generator: of the randomness; by default the global one of `device`.

    Raises:
        ValueError: the grid has fewer than two tokens.
    """
    tokens = grid[0] * grid[1]
    if tokens < 2:
        raise ValueError(f"a grid of {grid[0]} × {grid[1]} tokens leaves nothing to hide")
    kept = min(max(int(tokens * (1 - mask_ratio)), 1), tokens - 1)
    noise = torch.rand(batch, tokens, device=device, generator=generator)
    return KeptTokens(grid, noise.argsort(1)[:, :kept].sort(1).values)


class MaskedTokenShift(TokenShift):
    """Q-shift that also works among `KeptTokens`; without parameters, so it can take the place of a `TokenShift`."""

    def shift(self, x: Tensor, kept: KeptTokens) -> Tensor:
        """(B, K, C) -> (B, K, C): each group of channels from its neighbour on the grid, zero where that is hidden."""
        if self.shift_pixel == 0:
            return x
        heads = x.unflatten(2, (self.num_heads, -1))
        bounds = [int(heads.shape[3] * self.channel_gamma * group) for group in range(5)]
        padded = F.pad(heads, (0, 0, 0, 0, 0, 1))
        places = kept.neighbours(self.shift_pixel)[..., None, None]
        groups = [
            padded[..., start:end].gather(1, places[:, group].expand(-1, -1, self.num_heads, end - start))
            for group, (start, end) in enumerate(pairwise(bounds))
        ]
        return torch.cat([*groups, heads[..., bounds[4] :]], dim=3).flatten(2)

    def mix(
        self,
        x: Tensor,
        share: Tensor,
        grid: Grid | KeptTokens,
        correction: Tensor | None = None,
        norm_weight: Tensor | None = None,
        norm_bias: Tensor | None = None,
        norm_eps: float = 1e-5,
        backend: str | None = None,
    ) -> list[Tensor]:
        """Mixtures of tokens with their shifted selves, as `TokenShift.mix`; with `KeptTokens`, x is (B, K, C)."""
        if not isinstance(grid, KeptTokens):
            return super().mix(x, share, grid, correction, norm_weight, norm_bias, norm_eps, backend)
        if norm_weight is not None:
            x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, norm_eps)
        difference = self.shift(x, grid) - x
        weight = share.to(x.dtype)[:, None, None]
        if correction is not None:
            weight = weight + correction
        return [x + difference * part for part in weight.unbind(0)]


def accept_kept_tokens(blocks: nn.Module) -> None:
    """Let blocks take `KeptTokens` in place of the grid; parameters and what they compute otherwise stay the same."""
    for module in list(blocks.modules()):
        shift = getattr(module, "token_shift", None)
        if isinstance(shift, TokenShift):
            module.token_shift = MaskedTokenShift(shift.num_heads, shift.shift_pixel, shift.channel_gamma)
