"""Images of different sizes in one batch, each at its own resolution: packed end to end, neither padded nor cropped."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vrwkv.layers.large_inputs import reused_memory
from vrwkv.layers.packing import Grid, PackedGrids, pack
from vrwkv.layers.patch_embed import PatchEmbed


class NativeResolution(nn.Module):
    """What a backbone offers for lists of images; a base of `VisionRWKV`.

    The layers see one sequence with the tokens of all images. Shift, Bi-WKV with its division by the number of tokens,
    stochastic depth and pooling keep to each image, so that features are those of one image at a time.
    """

    if TYPE_CHECKING:  # TorchScript reads annotations of classes, and knows no such types
        in_chans: int
        patch_embed: PatchEmbed
        blocks: nn.ModuleList
        norm: nn.Module
        global_pool: str

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        raise NotImplementedError

    def _run_block(self, block: nn.Module, x: Tensor, grid: Grid) -> Tensor:
        raise NotImplementedError

    def pool(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, C); given by the model."""
        raise NotImplementedError

    def head_of_pooled(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C) pooled features -> (B, num_classes); given by the model."""
        raise NotImplementedError

    @torch.jit.ignore
    def forward_packed_features(self, images: Sequence[Tensor]) -> tuple[Tensor, PackedGrids]:
        """Tokens after the final norm of N images of any sizes.

        Args:
            images: N tensors (in_chans, H, W), each of its own height and width, on one device.

        Returns:
            (1, ΣT, C) tokens, image after image, and where each image lies; `PackedGrids.split` takes them apart.

        Raises:
            ValueError: no images, or one of another shape or smaller than a patch; the message says which.
        """
        if not images:
            raise ValueError("a packed batch needs at least one image")
        for index, image in enumerate(images):
            self._check_packed(image, index)
        with reused_memory(images[0]):
            tokens, grids = zip(*(self._embed(image[None]) for image in images), strict=True)
            x, grid = pack(tokens, grids)
            for block in self.blocks:
                x = self._run_block(block, x, grid)
        return self.norm(x), grid

    @torch.jit.ignore
    def _check_packed(self, image: Tensor, index: int) -> None:
        if image.ndim != 3 or image.shape[0] != self.in_chans:
            raise ValueError(
                f"image {index} of a packed batch must have shape ({self.in_chans}, H, W), not {list(image.shape)}"
            )
        patch_height, patch_width = self.patch_embed.patch_size
        if image.shape[1] < patch_height or image.shape[2] < patch_width:
            raise ValueError(
                f"image {index} of a packed batch must have at least one patch of {patch_height} × {patch_width} "
                f"pixels (height × width), not {image.shape[1]} × {image.shape[2]}"
            )

    @torch.jit.ignore
    def forward_packed(self, images: Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """N images (in_chans, H, W) of any sizes -> (N, num_classes); with `pre_logits`, (N, C) pooled features.

        Calling the model with a list does the same, through whatever wraps the model for training.

        Raises:
            ValueError: as `forward_packed_features`, or a model without pooling.
        """
        if self.global_pool == "":
            raise ValueError("packed images have no common shape without pooling: use forward_packed_features")
        x, grid = self.forward_packed_features(images)
        return self.head_of_pooled(torch.cat([self.pool(image) for image in grid.split(x)]), pre_logits)
