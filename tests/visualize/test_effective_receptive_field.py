"""Receptive fields of blocks that are known, and of every registered model."""

import pytest
import timm
import torch
from torch import Tensor, nn

import vrwkv
from vrwkv.models import registry
from vrwkv.visualize import (
    area_share,
    cumulative_share,
    draw_receptive_fields,
    effective_receptive_field,
    sum_is_constant,
)

GRID = (3, 5)
PIXELS = (4 * GRID[0], 4 * GRID[1])


class LeftNeighbour(nn.Module):
    """Every patch becomes the one on its left."""

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return x.roll(1, dims=1)


class WeightedByDistance(nn.Module):
    """Every patch becomes the sum of all, halved with every token in between."""

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        position = torch.arange(x.shape[1])
        weight = 0.5 ** (position[:, None] - position[None]).abs()
        return weight.to(x) @ x


class Square(nn.Module):
    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return x.square()


def linear_model(*blocks: nn.Module) -> vrwkv.VisionRWKV:
    """Patches embedded linearly, then these blocks: its gradients can be written down."""
    torch.manual_seed(0)
    model = vrwkv.VisionRWKV(img_size=PIXELS, patch_size=4, embed_dim=8, depth=len(blocks), num_classes=0)
    model.norm_pre = nn.Identity()
    model.blocks = nn.ModuleList(blocks)
    return model.double()


def embedding_gradient(model: vrwkv.VisionRWKV, signs: Tensor | None = None) -> Tensor:
    """(4, 4) sum over colours of |d(sum of channels) / d pixel| of one patch."""
    weight = model.patch_embed.proj.weight.detach()
    return (weight if signs is None else weight * signs[:, None, None, None]).sum(0).abs().sum(0)


def on_patches(pattern: Tensor, shares: Tensor) -> Tensor:
    """The pattern of a patch, times the share of each."""
    field = torch.einsum("hw,ij->hiwj", shares, pattern).reshape(PIXELS)
    return field / field.max()


def test_a_stack_that_mixes_nothing_sees_the_centre_patch_alone() -> None:
    model = linear_model(LeftNeighbour(), LeftNeighbour(), nn.Identity())
    model.blocks[2].forward = lambda x, grid: x  # type: ignore[method-assign]
    images = torch.randn(2, 3, *PIXELS, dtype=torch.float64)
    shares = torch.zeros(GRID, dtype=torch.float64)
    shares[1, 0] = 1  # the centre is (1, 2), and two blocks each look one to the left
    field = effective_receptive_field(model, images)
    torch.testing.assert_close(field, on_patches(embedding_gradient(model), shares), rtol=1e-12, atol=0)
    before = effective_receptive_field(model, images, block=0, patch=(2, 4))
    shares.zero_()[2, 3] = 1
    torch.testing.assert_close(before, on_patches(embedding_gradient(model), shares), rtol=1e-12, atol=0)


def test_weights_that_fall_with_distance_are_seen_as_they_are() -> None:
    model = linear_model(WeightedByDistance())
    distance = (torch.arange(15) - 7).abs().view(GRID)
    field = effective_receptive_field(model, torch.randn(1, 3, *PIXELS, dtype=torch.float64))
    expected = on_patches(embedding_gradient(model), 0.5 ** distance.double())
    torch.testing.assert_close(field, expected, rtol=1e-12, atol=0)


def test_fields_are_averaged_over_images_by_magnitude() -> None:
    model = linear_model(Square())
    images = torch.randn(1, 3, *PIXELS, dtype=torch.float64)
    with torch.no_grad():
        model.patch_embed.proj.bias.zero_()
    # Gradients of opposite images are opposite: they would cancel if signs were kept.
    both = effective_receptive_field(model, torch.cat([images, -images]))
    torch.testing.assert_close(both, effective_receptive_field(model, images))


def test_the_model_is_left_as_it_was() -> None:
    model = linear_model(WeightedByDistance()).train()
    model.blocks[0].eval()
    seen: list[int] = []
    images = torch.randn(2, 3, *PIXELS, dtype=torch.float64)
    with torch.no_grad():
        effective_receptive_field(model, images, progress=seen.append)
    assert model.training
    assert not model.blocks[0].training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert seen == [1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"patch": (3, 0)}, r"\(row 3, column 0\).*rows 0 to 2"), ({"block": 1}, "block 1 does not exist"), ({}, "zero")],
)
def test_what_cannot_be_drawn_is_said(options: dict, message: str) -> None:
    model = linear_model(WeightedByDistance())
    if not options:
        nn.init.zeros_(model.patch_embed.proj.weight)
    with pytest.raises(vrwkv.InputError, match=message):
        effective_receptive_field(model, torch.randn(1, 3, *PIXELS, dtype=torch.float64), **options)
    with pytest.raises(vrwkv.InputError, match="at least one image"):
        effective_receptive_field(model, torch.empty(0, 3, *PIXELS, dtype=torch.float64))


def test_shares_of_the_area() -> None:
    field = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
    torch.testing.assert_close(cumulative_share(field), torch.tensor([0, 0.4, 0.7, 0.9, 1.0], dtype=torch.float64))
    assert [area_share(field, share) for share in (0.0, 0.4, 0.41, 0.9, 0.95, 1.0)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert area_share(torch.ones(100, 100), 0.95) == 0.95
    assert area_share(torch.eye(10), 1.0) == 0.1


@pytest.mark.parametrize("name", [*sorted(registry.__all__), "vit_tiny_patch16_224"])
def test_every_model_has_a_field_through_all_its_patches(name: str) -> None:
    patch = 32 if "patch32" in name else 16
    width = 192 if name.startswith("vit") else 160 if "clip" in name else 96
    torch.manual_seed(0)
    model = timm.create_model(name, depth=2, embed_dim=width, num_classes=0, img_size=3 * patch)
    for key, parameter in model.named_parameters():
        if ".ls" in key:  # 1e-5 at the start would keep patches to themselves
            nn.init.ones_(parameter)
    image = torch.randn(1, 3, 3 * patch, 3 * patch)
    constant = sum_is_constant(model, image)
    # Exactly the models whose branches end in a norm, and which are untrained, say the same of every patch.
    assert constant == (name.split("_")[1] in ("small", "base", "large"))
    field = effective_receptive_field(model, image, projection="signs" if constant else "sum")
    assert field.shape == image.shape[-2:]
    assert field.max() == 1
    patches = field.view(3, patch, 3, patch).amax((1, 3))
    assert (patches > 1e-5).all()
    assert patches[1, 1] == 1


def test_fields_are_drawn_on_one_scale() -> None:
    field = torch.rand(8, 12, dtype=torch.float64)
    figure = draw_receptive_fields({"untrained": field / field.max(), "trained": torch.eye(8, 12)}, note="one image")
    first, second, *_ = figure.axes
    assert first.images[0].norm is second.images[0].norm
    assert second.get_title(loc="left") == "trained"
    assert second.get_xlabel() == "95 % lies in 8.33 % of the area"
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
