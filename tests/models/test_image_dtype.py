"""Images that torch could not multiply with the weights are refused in words about images; all others pass."""

import pytest
import timm
import torch
from torch import nn

import vrwkv  # noqa: F401 - registers the models
from vrwkv.dense.adapter import VisionRWKVAdapter

WHOLE = [torch.uint8, torch.int16, torch.int64, torch.bool]
FLOATING = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def model_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "adapter":
        return VisionRWKVAdapter(img_size=64, embed_dim=48, depth=4).eval()
    heads = {"num_heads": 2} if kind == "rwkv_clip_base_patch32_224" else {}
    return timm.create_model(kind, embed_dim=32, depth=1, num_classes=5, **heads).eval()


def images(dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
    return torch.linspace(-2, 2, 2 * 3 * 64 * 64, device=device).view(2, 3, 64, 64).to(dtype)


@pytest.mark.parametrize("kind", ["vrwkv_tiny_patch16_224", "rwkv_clip_base_patch32_224", "adapter"])
def test_whole_numbers_are_refused_with_and_without_autocast(kind: str) -> None:
    model = model_of(kind)
    for dtype in WHOLE:
        for autocast in (False, True):
            with (
                torch.autocast("cpu", enabled=autocast),
                pytest.raises(ValueError, match=rf"^images must be floating point, not {dtype}: .*float\(\) / 255"),
            ):
                model(images(dtype))


def test_packed_images_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"images must be floating point, not torch\.uint8"):
        model_of("vrwkv_tiny_patch16_224")([images(torch.float32)[0], images(torch.uint8)[0]])


@pytest.mark.parametrize("kind", ["vrwkv_tiny_patch16_224", "adapter"])
@pytest.mark.parametrize("dtype", FLOATING)
def test_images_must_have_the_weights_dtype(kind: str, dtype: torch.dtype) -> None:
    model = model_of(kind).to(dtype)
    with torch.no_grad():
        model(images(dtype))
    for other in FLOATING:
        if other != dtype:
            said = f"images are {other} and the model's weights {dtype}: convert one of them, .*images.to.{dtype}.$"
            with pytest.raises(ValueError, match=said):
                model(images(other))


@pytest.mark.parametrize("kind", ["vrwkv_tiny_patch16_224", "adapter"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_converts(kind: str, dtype: torch.dtype) -> None:
    for weights in (torch.float32, torch.bfloat16):
        model = model_of(kind).to(weights)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            given, converted = model(images(dtype)), model(images(dtype).to(weights))
        for one, other in zip(given, converted, strict=True):  # logits of an image, or maps of a scale
            assert other.abs().max() > 0
            # Of pixels in other types, autocast may round some that the other way keeps.
            torch.testing.assert_close(one, other, check_dtype=False, rtol=0, atol=0.05 * other.abs().max().item())


def test_meta_tensors_pass_in_any_floating_dtype() -> None:
    model = model_of("vrwkv_tiny_patch16_224").to("meta")
    with torch.autocast("cpu"):
        assert model(images(torch.bfloat16, "meta")).shape == (2, 5)


def test_the_check_breaks_no_graph() -> None:
    torch.compiler.reset()
    model = model_of("vrwkv_tiny_patch16_224")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad(), torch.autocast("cpu"):
        torch.testing.assert_close(compiled(images(torch.bfloat16)), model(images(torch.bfloat16)))
