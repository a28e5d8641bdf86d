"""Simple feature pyramid: maps of four strides from the last map of a backbone that has one stride only."""

from timm.layers import LayerNorm2d
from torch import Tensor, nn


class SimpleFeaturePyramid(nn.Module):
    """Transposed convolutions and pooling of the last map (ViTDet, arXiv 2203.16527, section 3).

    The projections to one number of channels, which the paper counts in, belong to the neck that follows, such as
    `torchvision.ops.FeaturePyramidNetwork`.

    Args:
        dim: channels of the map, a multiple of 4.

    Attributes:
        channels: of the four maps: dim / 4, dim / 2, dim, dim.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim % 4:
            raise ValueError(f"the channels of the map must be a multiple of 4, not {dim}")
        self.channels = [dim // 4, dim // 2, dim, dim]
        self.finest = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 2, 2, 2),
            LayerNorm2d(dim // 2),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 2, dim // 4, 2, 2),
        )
        self.finer = nn.ConvTranspose2d(dim, dim // 2, 2, 2)
        self.coarser = nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, dim, h, w) at stride s -> maps at strides s / 4, s / 2, s and 2 s, the last ⌈h / 2⌉ × ⌈w / 2⌉."""
        return self.finest(x), self.finer(x), x, self.coarser(x)
