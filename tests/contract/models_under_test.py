"""Every registered image model, made small, and images for it."""

import pytest
import timm
import torch
from torch import Tensor, nn

from vrwkv.models import registry

NAMES = sorted(set(registry.__all__))
# Widths that keep each model's number of heads, at most a third of the full ones.
WIDTHS = {
    "vrwkv_tiny_patch16_224": 48,
    "vrwkv_small_patch16_224": 64,
    "vrwkv_base_patch16_224": 64,
    "vrwkv_large_patch16_384": 64,
    "vrwkv6_tiny_patch16_224": 48,
    "vrwkv6_small_patch16_224": 96,
    "vrwkv6_base_patch16_224": 96,
    "rwkv_clip_base_patch16_224": 160,
    "rwkv_clip_base_patch32_224": 160,
}

every_model = pytest.mark.parametrize("name", NAMES)


def patch_of(name: str) -> int:
    return 32 if "patch32" in name else 16


def build(name: str, **kwargs: object) -> nn.Module:
    """The model with two narrow blocks, for 3×3 patches and five classes, away from its starting values."""
    torch.manual_seed(0)
    options = {"depth": 2, "embed_dim": WIDTHS[name], "img_size": 3 * patch_of(name), "num_classes": 5}
    if "large" in name:
        options["head_hidden_dim"] = 40
    model = timm.create_model(name, **{**options, **kwargs})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for key, parameter in model.named_parameters():
            if ".ls" in key:
                parameter.fill_(0.5)
    return model.eval()


def images(name: str, batch: int = 2, height: int = 0, width: int = 0, channels: int = 3) -> Tensor:
    torch.manual_seed(1)
    native = 3 * patch_of(name)
    return torch.randn(batch, channels, height or native, width or native)


def relative_error(computed: Tensor, expected: Tensor) -> float:
    return ((computed.double() - expected.double()).abs().max() / expected.double().abs().max()).item()
