import pytest
import torch

from vrwkv import VisionRWKV


def model(**options: object) -> VisionRWKV:
    return VisionRWKV(img_size=16, patch_size=8, embed_dim=16, depth=1, num_classes=2, **options).eval()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_image_that_is_not_finite_is_refused(value: float) -> None:
    images = torch.zeros(4, 3, 16, 16)
    images[2, 1, 5, 5:7] = value
    images[3, 0, 0, 0] = value
    checked = model(check_finite=True)
    with pytest.raises(ValueError, match=r"image 2 of the batch has 2 values .*\(2 of 4 images"):
        checked(images)
    with pytest.raises(ValueError, match="NaN or infinite"):
        checked([images[2]])
    assert checked(images[:2]).isfinite().all()


def test_the_check_is_off_by_default_and_changes_nothing() -> None:
    images = torch.randn(2, 3, 16, 16)
    torch.manual_seed(0)
    plain = model()
    torch.manual_seed(0)
    checked = model(check_finite=True)
    assert torch.equal(plain(images), checked(images))
    plain(torch.full_like(images, float("nan")))
    with pytest.warns(Warning, match=r"torch\.jit\.script"):
        scripted = torch.jit.script(checked)
    with pytest.raises(Exception, match="NaN or infinite"):
        scripted(torch.full_like(images, float("nan")))
