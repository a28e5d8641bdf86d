"""Image to tokens: any size, with zeros added at the right and bottom to fill whole patches."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, to_2tuple
from torch import Tensor, nn

from vrwkv.layers.image_dtype import check_image_dtype
from vrwkv.layers.scriptable_ops import extract_patches
from vrwkv.ops.cpu_runtime.eager import runs_eagerly
from vrwkv.ops.exporting import exporting


@register_notrace_module
class PatchEmbed(nn.Module):
    """Linear embedding of non-overlapping patches.

    Computed as reshape and matrix product on the weight of `proj`, which holds a convolution's parameters: a
    convolution would be recompiled for, and has crashed on, changing image sizes.

    Args:
        img_size: the size that position embeddings belong to, in pixels; inputs may differ.
        patch_size: in pixels.
        in_chans: input channels.
        embed_dim: channels of a token.
        strict_img_size: refuse images of another size than `img_size`.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        embed_dim: int = 192,
        strict_img_size: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.img_size: tuple[int, int] = to_2tuple(img_size)
        self.patch_size: tuple[int, int] = to_2tuple(patch_size)
        self.in_chans = in_chans
        self.strict_img_size = strict_img_size
        self.proj = nn.Conv2d(in_chans, embed_dim, self.patch_size, self.patch_size, device=device, dtype=dtype)

    @property
    def grid_size(self) -> tuple[int, int]:
        """(height, width) of `img_size` in patches."""
        return self.dynamic_feat_size(self.img_size)

    @property
    def num_patches(self) -> int:
        """Tokens of an image of `img_size`."""
        return self.grid_size[0] * self.grid_size[1]

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in patches of an image of `img_size` pixels, started patches included."""
        return -(-img_size[0] // self.patch_size[0]), -(-img_size[1] // self.patch_size[1])

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels per patch: the larger side, or (height, width)."""
        return max(self.patch_size) if as_scalar else self.patch_size

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, in_chans, H, W) pixels -> (B, T, embed_dim) tokens in raster order, and their grid (height, width).

        Raises:
            ValueError: another number of channels or dimensions, pixels that are no floating-point numbers or of
                another dtype than the weights (outside autocast), an image smaller than a patch, or, where asked to
                refuse it, an image of another size.
        """
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise ValueError(f"images must have shape (B, {self.in_chans}, H, W), not {list(x.shape)}")
        if not torch.jit.is_scripting():
            check_image_dtype(x, self.proj.weight)
        size = (x.shape[2], x.shape[3])
        if self.strict_img_size and size != self.img_size:
            raise ValueError(f"images must be {self.img_size} pixels with dynamic_img_size=False, not {size}")
        patch_height, patch_width = self.patch_size
        # An exported file fills up images of any size; a condition on a free size would bind it.
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript would compile an `and` whole
            if not exporting() and (x.shape[2] < patch_height or x.shape[3] < patch_width):
                raise ValueError(
                    f"images must have at least one patch of {patch_height} × {patch_width} pixels (height × width), "
                    f"not {size[0]} × {size[1]}"
                )
        # Not `-size % patch`: Inductor has no remainder of negative symbols.
        missing_width = (patch_width - x.shape[3] % patch_width) % patch_width
        missing_height = (patch_height - x.shape[2] % patch_height) % patch_height
        pads = True
        if not torch.jit.is_scripting():  # compilers see a pad whatever the size: others may follow
            fixed = isinstance(missing_width, int) and isinstance(missing_height, int)
            if runs_eagerly(x) or (exporting() and fixed):
                pads = missing_width > 0 or missing_height > 0
        if pads:  # torch copies the image even to add nothing
            x = F.pad(x, (0, missing_width, 0, missing_height))
        height, width = x.shape[2] // patch_height, x.shape[3] // patch_width
        patches = extract_patches(x, self.patch_size)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias), (height, width)
