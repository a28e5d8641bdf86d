"""Features of every patch after a chosen block, the same for every backbone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vrwkv.errors import InputError


def patch_features(model: nn.Module, images: Tensor, block: int = -1, *, norm: bool = True) -> Tensor:
    """Features of the patches after one block, in evaluation mode; class and register tokens are left out.

    Gradients flow to `images` if they ask for them and gradients are enabled.

    Args:
        model: a `VisionRWKV`, or any model with timm's `forward_intermediates`, such as a vision transformer.
        images: (B, 3, H, W), on the device of the model.
        block: index of the block, negative ones counted from the end.
        norm: apply the model's final norm after the last block; after others it never is.

    Returns:
        (B, h, w, C), the grid of patches.

    Raises:
        InputError: the model gives no features by block, or has no such block.
    """
    depth = number_of_blocks(model)
    if not -depth <= block < depth:
        raise InputError(f"block {block} does not exist: {type(model).__name__} has blocks 0 to {depth - 1}")
    index = block % depth
    forward: Any = model.forward_intermediates
    with evaluating(model):
        maps = forward(
            images, indices=[index], norm=norm and index == depth - 1, stop_early=True, intermediates_only=True
        )
    return maps[0].permute(0, 2, 3, 1)


def number_of_blocks(model: nn.Module) -> int:
    """How many blocks (of other backbones: stages) have features to show.

    Raises:
        InputError: the model gives no features by block.
    """
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "feature_info"):
        raise InputError(f"{type(model).__name__} gives no features by block; take a vrwkv model or a ViT of timm")
    information: Any = model.feature_info
    return len(information)


def patch_size(model: nn.Module) -> tuple[int, int]:
    """Height and width of a patch in pixels.

    Raises:
        InputError: the model does not cut images into patches of one size.
    """
    size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if size is None:
        raise InputError(
            f"{type(model).__name__} does not cut images into patches; take a vrwkv model or a ViT of timm"
        )
    return size[0], size[1]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model without dropout; every module is put back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def features_without_gradient(model: nn.Module, images: Tensor, block: int = -1) -> Tensor:
    """`patch_features` for pictures that need no gradient: (B, h, w, C) float32 on the CPU."""
    with torch.no_grad():
        return patch_features(model, images, block).float().cpu()
