"""What every registered image model must compute, at depth 2; the whole models run under the mark `whole`."""

import pytest
import timm
import torch
from models_under_test import WIDTHS, build, every_model, images, patch_of, relative_error
from torch import nn


@every_model
def test_every_parameter_learns(name: str) -> None:
    model = build(name).train()
    logits = model(images(name))
    assert logits.shape == (2, 5)
    nn.functional.cross_entropy(logits, torch.tensor([1, 3])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@every_model
@pytest.mark.parametrize("size", [(16, 16), (32, 32), (19, 31), (17, 300), (225, 230), (64, 128), (300, 17)])
def test_any_image_size(name: str, size: tuple[int, int]) -> None:
    model, patch = build(name), patch_of(name)
    size = (size[0] * patch // 16, size[1] * patch // 16)
    x = images(name, 1, *size).requires_grad_()
    grid = tuple(-(-side // patch) for side in size)
    tokens = model.forward_features(x)
    assert tokens.shape == (1, grid[0] * grid[1], WIDTHS[name])
    logits = model(x)
    assert logits.shape == (1, 5)
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    padded = torch.zeros(1, 3, grid[0] * patch, grid[1] * patch)
    padded[:, :, : size[0], : size[1]] = x.detach()
    torch.testing.assert_close(model(padded), logits)


@every_model
def test_images_of_a_batch_do_not_meet(name: str) -> None:
    model, x = build(name).double(), images(name, 3).double()
    together = model(x)
    for index in range(3):
        torch.testing.assert_close(model(x[index : index + 1]), together[index : index + 1])


@every_model
def test_each_token_sees_every_other(name: str) -> None:
    model, x = build(name).double(), images(name, 1).double().requires_grad_()
    model.forward_features(x)[0, 0].square().sum().backward()
    patch = patch_of(name)
    seen = x.grad.unfold(2, patch, patch).unfold(3, patch, patch).abs().amax((0, 1, 4, 5))
    assert (seen > 0).all()


@every_model
def test_bfloat16_and_autocast(name: str) -> None:
    model, x = build(name), images(name)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = model(x)
        under_autocast.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert relative_error(under_autocast, expected) < 0.05
    half = model.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert relative_error(half, expected) < 0.1


@every_model
def test_one_input_channel(name: str) -> None:
    model = build(name, in_chans=1)
    assert model(images(name, channels=1)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\)"):
        model(images(name))


@every_model
@pytest.mark.parametrize("training", [True, False])
def test_gradient_checkpointing_changes_nothing(name: str, training: bool) -> None:
    model, x = build(name, drop_path_rate=0.3).train(training), images(name)
    results, runs = [], []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda *_: runs.append(1))
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(3)
        runs.clear()
        logits = model(x)
        logits.square().mean().backward()
        assert len(runs) == (4 if enable else 2)
        results.append((logits, {key: parameter.grad.clone() for key, parameter in model.named_parameters()}))
    torch.testing.assert_close(results[0], results[1])


@every_model
def test_drop_path_acts_in_training_only(name: str) -> None:
    model, x = build(name, drop_path_rate=0.9), images(name, 8)
    assert torch.equal(model(x), model(x))
    torch.testing.assert_close(model(x), build(name)(x))
    model.train()
    assert not torch.allclose(model(x), model(x))
    assert model.blocks[0].drop_path1.drop_prob == 0
    assert model.blocks[1].drop_path1.drop_prob == model.blocks[1].drop_path2.drop_prob == 0.9


@pytest.mark.whole
@every_model
def test_whole_model(name: str) -> None:
    """Forward, backward and two image sizes of the model as it is registered."""
    torch.manual_seed(0)
    model = timm.create_model(name).train()
    native = model.patch_embed.img_size
    logits = model(torch.randn(2, 3, *native))
    assert logits.shape == (2, model.num_classes or model.num_features)
    logits.square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    model.zero_grad(set_to_none=True)
    model.eval()
    with torch.no_grad():
        for size in ((225, 230), (40, 300), timm.get_pretrained_cfg(name).input_size[1:]):
            assert model(torch.randn(1, 3, *size)).isfinite().all()
        with torch.autocast("cpu", torch.bfloat16):
            assert model(torch.randn(1, 3, *native)).isfinite().all()
