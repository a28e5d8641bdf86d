"""How the ViT-Adapter's two halves talk: an injector writes into the tokens, extractors read from them."""

from collections.abc import Callable, Sequence

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from vrwkv.layers.deformable_attention import DeformableAttention

NORM_EPS = 1e-6
Shapes = Sequence[tuple[int, int]]


class _Reader(nn.Module):
    """What injectors and extractors are: norms around a deformable attention of one sequence to a pyramid."""

    def __init__(self, dim: int, num_heads: int, num_points: int, num_levels: int, ratio: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.feat_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = DeformableAttention(dim, num_heads, num_levels=num_levels, num_points=num_points, ratio=ratio)

    def read(self, query: Tensor, points: Tensor, features: Tensor, shapes: Shapes) -> Tensor:
        """Query (B, Q, C) at `points` (1, Q, levels, 2), features (B, S, C) of `shapes` -> (B, Q, C)."""
        return self.attn(self.query_norm(query), points, self.feat_norm(features), shapes)


class Injector(_Reader):
    """x + gamma · attention(norm(x), norm(c)): tokens look at the pyramid (arXiv 2205.08534, Eq. 1).

    Args:
        dim: channels.
        num_heads, num_points, ratio: as in `DeformableAttention`.
        num_levels: levels of the pyramid.
        init_values: starting value of gamma.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_points: int = 4,
        num_levels: int = 3,
        ratio: float = 1.0,
        init_values: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, num_points, num_levels, ratio)
        self.gamma = nn.Parameter(torch.full((dim,), init_values))

    def forward(self, x: Tensor, points: Tensor, c: Tensor, shapes: Shapes) -> Tensor:
        """x (B, T, C) tokens at `points` (1, T, levels, 2), c (B, S, C) pyramid of `shapes` -> (B, T, C)."""
        return x + self.gamma * self.read(x, points, c, shapes)


class Extractor(_Reader):
    """c + attention(norm(c), norm(x)), then a feed-forward with depth-wise convolution (arXiv 2205.08534, Eq. 2, 3).

    Args:
        dim: channels.
        num_heads, num_points, ratio: as in `DeformableAttention`.
        mlp_ratio: hidden width of the feed-forward over `dim`.
        drop_path: stochastic depth of the feed-forward.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_points: int = 4,
        ratio: float = 1.0,
        mlp_ratio: float = 0.25,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, num_points, 1, ratio)
        self.ffn = PyramidFeedForward(dim, int(dim * mlp_ratio))
        self.ffn_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.drop_path = DropPath(drop_path)

    def forward(self, c: Tensor, points: Tensor, x: Tensor, shapes: Shapes, grid: tuple[int, int]) -> Tensor:
        """c (B, S, C) pyramid of `shapes` at `points` (1, S, 1, 2), x (B, T, C) tokens over `grid` -> (B, S, C)."""
        c = c + self.read(c, points, x, [grid])
        return c + self.drop_path(self.ffn(self.ffn_norm(c), shapes))


class PyramidFeedForward(nn.Module):
    """Linear, 3×3 depth-wise convolution over each level of a pyramid, GELU, Linear.

    Args:
        dim: channels.
        hidden_dim: channels between the linear layers.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = _PyramidConvolution(hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, c: Tensor, shapes: Shapes) -> Tensor:
        """(B, S, C), levels of `shapes` end to end -> (B, S, C)."""
        return self.fc2(self.act(self.dwconv(self.fc1(c), shapes)))


class _PyramidConvolution(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, c: Tensor, shapes: Shapes) -> Tensor:
        levels = c.split([height * width for height, width in shapes], dim=1)
        maps = (level.transpose(1, 2).unflatten(2, shape) for level, shape in zip(levels, shapes, strict=True))
        return torch.cat([self.dwconv(each).flatten(2).transpose(1, 2) for each in maps], dim=1)


class Interaction(nn.Module):
    """One exchange: injector, a stage of the backbone's blocks, extractor (and, in the last, further extractors).

    Args:
        dim: channels.
        num_heads, num_points, ratio: as in `DeformableAttention`.
        mlp_ratio, drop_path: as in `Extractor`.
        init_values: as in `Injector`.
        extra_extractors: how many extractors follow the first.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_points: int = 4,
        ratio: float = 1.0,
        mlp_ratio: float = 0.25,
        drop_path: float = 0.0,
        init_values: float = 0.0,
        extra_extractors: int = 0,
    ) -> None:
        super().__init__()

        def extractor() -> Extractor:
            return Extractor(dim, num_heads, num_points, ratio, mlp_ratio, drop_path)

        self.injector = Injector(dim, num_heads, num_points, 3, ratio, init_values)
        self.extractor = extractor()
        self.extra_extractors = (
            nn.ModuleList(extractor() for _ in range(extra_extractors)) if extra_extractors else None
        )

    def forward(
        self, x: Tensor, c: Tensor, stage: Callable[[Tensor], Tensor], shapes: Shapes, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Tokens x (B, T, C) over `grid` and pyramid c (B, S, C) of `shapes`, both after the exchange.

        Args:
            x, c: before it.
            stage: the blocks of the backbone that run between injector and extractor.
            shapes: (height, width) of the levels of `c`.
            grid: (height, width) of `x`.
        """
        x = stage(self.injector(x, _at_centres([grid], len(shapes), x), c, shapes))
        points = _at_centres(shapes, 1, x)
        for extractor in (self.extractor, *(self.extra_extractors or ())):
            c = extractor(c, points, x, shapes, grid)
        return x, c


def _at_centres(shapes: Shapes, num_levels: int, like: Tensor) -> Tensor:
    """(1, ΣHW, num_levels, 2): where the pixels of maps of `shapes` have their centres, as (x, y) in [0, 1]."""
    centres = []
    for height, width in shapes:
        y = (torch.arange(height, device=like.device) + 0.5) / height
        x = (torch.arange(width, device=like.device) + 0.5) / width
        centres.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
    return torch.cat(centres)[None, :, None].expand(-1, -1, num_levels, -1)
