"""The convolutional half of the ViT-Adapter: maps at strides 4 to 32 straight from the pixels."""

from torch import Tensor, nn


class SpatialPrior(nn.Module):
    """Spatial prior module (ViT-Adapter, arXiv 2205.08534, section 3.3; released class SpatialPriorModule).

    Args:
        in_chans: channels of the image.
        inplanes: channels of the stem; the strides 8, 16 and 32 have 2, 4 and 4 times as many.
        embed_dim: channels of the backbone's tokens.
    """

    def __init__(self, in_chans: int = 3, inplanes: int = 64, embed_dim: int = 192) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_convolution(in_chans, inplanes, 2),
            *_convolution(inplanes, inplanes, 1),
            *_convolution(inplanes, inplanes, 1),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.conv2 = nn.Sequential(*_convolution(inplanes, 2 * inplanes, 2))
        self.conv3 = nn.Sequential(*_convolution(2 * inplanes, 4 * inplanes, 2))
        self.conv4 = nn.Sequential(*_convolution(4 * inplanes, 4 * inplanes, 2))
        self.fc1 = nn.Conv2d(inplanes, embed_dim, 1)
        self.fc2 = nn.Conv2d(2 * inplanes, embed_dim, 1)
        self.fc3 = nn.Conv2d(4 * inplanes, embed_dim, 1)
        self.fc4 = nn.Conv2d(4 * inplanes, embed_dim, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, in_chans, H, W) -> maps (B, embed_dim, H / s, W / s) for the strides s = 4, 8, 16, 32."""
        first = self.stem(images)
        second = self.conv2(first)
        third = self.conv3(second)
        return self.fc1(first), self.fc2(second), self.fc3(third), self.fc4(self.conv4(third))


def _convolution(in_chans: int, out_chans: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_chans, out_chans, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_chans),
        nn.ReLU(inplace=True),
    )
