"""What is exported: a module with one input, which of its sizes vary, and inputs to check the file with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Tower:
    """A module that maps one tensor to one tensor, ready to be traced.

    Attributes:
        module: what the file will compute, in eval mode.
        input_name, output_name: their names in an ONNX file.
        draw: (shape, generator) -> a random input of that shape.
        example_shape: what the module is traced with; no varying size may be 1 here.
        dynamic_sizes: axis of the input -> (name, smallest size).
        check_shapes: inputs that an exported file is compared with eager on.
        metadata: what the file will say about the model, see `vrwkv.export.metadata`.
    """

    module: nn.Module
    input_name: str
    output_name: str
    draw: Callable[[tuple[int, ...], torch.Generator], Tensor]
    example_shape: tuple[int, ...]
    dynamic_sizes: dict[int, tuple[str, int]]
    check_shapes: tuple[tuple[int, ...], ...]
    metadata: dict[str, str] = field(default_factory=dict)

    def example(self) -> Tensor:
        """The input to trace with."""
        return self.draw(self.example_shape, torch.Generator().manual_seed(0))

    def dynamic_shapes(self) -> tuple[dict[int, Any]]:
        """The varying sizes as `torch.export.export` wants them."""
        return ({axis: torch.export.Dim(name, min=least) for axis, (name, least) in self.dynamic_sizes.items()},)


class _WholePatches(nn.Module):
    """An image model behind the padding of its images to whole patches.

    The models pad, too, with remainders, which the exporter cannot reason about. Written as multiples of the number of
    patches, the sizes stay simple, and the model's own padding is nothing.
    """

    def __init__(self, model: nn.Module, patch_size: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> what the model returns."""
        patch_height, patch_width = self.patch_size
        height = (images.shape[2] + patch_height - 1) // patch_height
        width = (images.shape[3] + patch_width - 1) // patch_width
        missing = (0, width * patch_width - images.shape[3], 0, height * patch_height - images.shape[2])
        return self.model(F.pad(images, missing))


def image_tower(model: nn.Module, trunk: Any = None, metadata: Mapping[str, str] | None = None) -> Tower:
    """An image model for images of any number and any size of at least two patches on each side.

    Args:
        model: maps (B, channels, H, W) to one tensor.
        trunk: the `VisionRWKV` inside `model`; by default `model` itself.
        metadata: what the file will say about the model, as `vrwkv.export.metadata.image_metadata` gives it.
    """
    trunk = model if trunk is None else trunk
    patch_height, patch_width = trunk.patch_embed.patch_size
    height, width = trunk.patch_embed.img_size
    channels = trunk.in_chans
    return Tower(
        module=_WholePatches(model, (patch_height, patch_width)).eval(),
        input_name="images",
        output_name="logits" if getattr(trunk, "num_classes", 0) else "features",
        draw=lambda shape, generator: torch.randn(shape, generator=generator),
        example_shape=(2, channels, 5 * patch_height + 3, 7 * patch_width + 1),
        dynamic_sizes={0: ("batch", 1), 2: ("height", patch_height + 1), 3: ("width", patch_width + 1)},
        check_shapes=(
            (1, channels, max(height, patch_height + 1), max(width, patch_width + 1)),
            (3, channels, 2 * patch_height, 6 * patch_width - 5),
            (2, channels, 9 * patch_height + 1, 4 * patch_width + patch_width // 2),
        ),
        metadata=dict(metadata or {}),
    )
