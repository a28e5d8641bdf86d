"""Images that keep their shape, and their size up to a number of patches: timm's NaFlex transforms without enlarging.

A model that packs images (`vrwkv.models.VisionRWKV`) takes such a batch as a list, with neither padding nor cropping.
"""

import math
from collections.abc import Callable
from typing import Any

from timm.data.naflex_transforms import RandomResizedCropToSequence, ResizeToSequence
from torch.utils.data import default_collate
from torchvision.transforms.functional import resized_crop

PatchSize = tuple[int, int]


class FitSequence(ResizeToSequence):
    """Shrink an image, in its own shape, to at most `max_tokens` patches; one that has no more stays as it is.

    An image smaller than a patch is enlarged to one. A shrunk image fills whole patches, for which its shape may
    change by less than a patch.
    """

    def __init__(self, patch_size: PatchSize, max_tokens: int, interpolation: str) -> None:
        super().__init__(patch_size, max_tokens, max_ratio=1.0, interpolation=interpolation)  # type: ignore[arg-type]
        self.patch_height, self.patch_width = patch_size

    def forward(self, image: Any) -> Any:
        """PIL image -> PIL image."""
        rows, columns = math.ceil(image.height / self.patch_height), math.ceil(image.width / self.patch_width)
        has_a_patch = image.height >= self.patch_height and image.width >= self.patch_width
        return image if has_a_patch and rows * columns <= self.max_seq_len else super().forward(image)


class CropWithinSequence(RandomResizedCropToSequence):
    """timm's random crop, at most `max_tokens` patches large and never enlarged; sizes are whole patches.

    Args:
        scale: share of the image's area that a crop keeps: smallest, largest.
        ratio: factor on the image's width over height: smallest, largest.
    """

    def __init__(
        self,
        patch_size: PatchSize,
        max_tokens: int,
        scale: tuple[float, float],
        ratio: tuple[float, float],
        interpolation: str,
    ) -> None:
        super().__init__(patch_size, max_tokens, scale, ratio, interpolation)

    def forward(self, image: Any) -> Any:
        """PIL image -> PIL image."""
        # timm's own forward forgets to hand its limit on enlargement to get_params.
        (top, left, height, width), size, interpolation = self.get_params(
            image,
            self.scale,
            self.ratio,
            patch_h=self.patch_h,
            patch_w=self.patch_w,
            max_seq_len=self.max_seq_len,
            max_ratio=1.0,
            interpolation=self.interpolation,
        )
        return resized_crop(image, top, left, height, width, list(size), interpolation, antialias=True)


def collate_images(max_tokens: int | None) -> Callable[[list[Any]], dict[str, Any]]:
    """How samples become a batch: "image" stacked, or a list where images have a size of their own."""
    return default_collate if max_tokens is None else _list_images


def _list_images(samples: list[dict[str, Any]]) -> dict[str, Any]:
    others = default_collate([{key: value for key, value in sample.items() if key != "image"} for sample in samples])
    return {"image": [sample["image"] for sample in samples], **others}
