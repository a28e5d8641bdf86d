"""Images of different sizes in one packed batch: every registered model, as one image at a time."""

import pytest
import torch
from models_under_test import build, every_model, patch_of, relative_error
from torch import Tensor, nn

from vrwkv import VisionRWKV


def sizes(patch: int) -> list[tuple[int, int]]:
    return [(3 * patch, 3 * patch), (patch + 1, 5 * patch), (patch, patch), (4 * patch - 3, 2 * patch)]


def draw(patch: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(2)
    return [torch.randn(3, height, width, dtype=dtype) for height, width in sizes(patch)]


@every_model
def test_features_are_those_of_one_image_at_a_time(name: str) -> None:
    model, images = build(name), draw(patch_of(name))
    with torch.no_grad():
        tokens, packed = model.forward_packed_features(images)
        assert packed.grids == tuple(
            (-(-h // patch_of(name)), -(-w // patch_of(name))) for h, w in sizes(patch_of(name))
        )
        for image, own in zip(images, packed.split(tokens), strict=True):
            assert relative_error(own, model.forward_features(image[None])) < 1e-6
        alone = torch.cat([model(image[None]) for image in images])
        assert relative_error(model(images), alone) < 1e-6
        alone = torch.cat(
            [model.forward_head(model.forward_features(image[None]), pre_logits=True) for image in images]
        )
        assert relative_error(model.forward_packed(images, pre_logits=True), alone) < 1e-6


@every_model
def test_gradients_are_those_of_one_image_at_a_time(name: str) -> None:
    model, images = build(name).double().train(), draw(patch_of(name), torch.float64)

    def gradients(logits: Tensor) -> list[Tensor]:
        loss = (logits * torch.arange(logits.numel()).view_as(logits).cos()).sum()
        return list(torch.autograd.grad(loss, list(model.parameters())))

    alone = gradients(torch.cat([model(image[None]) for image in images]))
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        for (parameter, _), actual, expected in zip(
            model.named_parameters(), gradients(model(images)), alone, strict=True
        ):
            assert relative_error(actual, expected) < 1e-9, parameter


@pytest.mark.parametrize(
    "options",
    [
        {"mixer": "bi_wkv6", "class_token": True, "global_pool": "token"},
        {"mixer": "bi_wkv6", "class_token": True, "global_pool": "max"},
        {"formula": "published", "global_pool": "avgmax"},
        {"shift_pixel": 0, "post_norm": True, "key_norm": True, "init_values": 0.1},
    ],
    ids=str,
)
def test_every_variant_of_the_model(options: dict[str, object]) -> None:
    model, images = small(**options), draw(8)
    with torch.no_grad():
        assert relative_error(model(images), torch.cat([model(image[None]) for image in images])) < 1e-6


def small(**options: object) -> nn.Module:
    torch.manual_seed(0)
    settings = {"img_size": 24, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_classes": 5, **options}
    model = VisionRWKV(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def test_stochastic_depth_drops_whole_images() -> None:
    block = small(drop_path_rate=0.5).blocks[1].train()
    x, packed = small().forward_packed_features(draw(8) * 50)
    with torch.no_grad():
        kept = block.drop_path1(torch.ones_like(x), packed)
    factors = [own.unique().tolist() for own in packed.split(kept)]
    assert {tuple(values) for values in factors} == {(0.0,), (2.0,)}
    assert 70 < sum(values == [0.0] for values in factors) < 130
    assert torch.equal(block.eval().drop_path1(x, packed), x)


def test_an_image_changes_nothing_for_the_others() -> None:
    model, images = small(), draw(8)
    with torch.no_grad():
        before = model(images)
        images[1] = torch.full_like(images[1], float("nan"))
        after = model(images)
    assert after[1].isnan().all()
    others = [0, 2, 3]
    assert torch.equal(after[others], before[others])


def test_what_cannot_be_packed_is_refused() -> None:
    model = small()
    with pytest.raises(ValueError, match="at least one image"):
        model([])
    with pytest.raises(ValueError, match=r"image 1 of a packed batch must have shape \(3, H, W\), not \[1, 3, 8, 8\]"):
        model([torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8)])
    with pytest.raises(ValueError, match=r"image 0 of a packed batch must have shape \(3, H, W\), not \[4, 8, 8\]"):
        model([torch.zeros(4, 8, 8)])
    height, width = model.patch_embed.patch_size
    small_image = torch.zeros(3, height - 1, width)
    with pytest.raises(
        ValueError, match=rf"image 2 of a packed batch .* {height} × {width} .*, not {height - 1} × {width}$"
    ):
        model([torch.zeros(3, height, width), torch.zeros(3, 20, 20), small_image])
    with pytest.raises(ValueError, match="forward_packed_features"):
        small(global_pool="", num_classes=0)([torch.zeros(3, 8, 8)])
