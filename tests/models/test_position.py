"""Position embeddings for other grids: two small products, equal to bicubic interpolation of all channels."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vrwkv.models.position import resample_position_embedding

Size = tuple[int, int]


def interpolated(embedding: Tensor, old: Size, new: Size) -> Tensor:
    maps = embedding.unflatten(1, old).permute(0, 3, 1, 2)
    return F.interpolate(maps, size=new, mode="bicubic", align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)


def embedding(tokens: int) -> Tensor:
    return torch.randn(1, tokens, 8, generator=torch.Generator().manual_seed(tokens), dtype=torch.float64)


@pytest.mark.parametrize(
    ("old", "new"), [((3, 4), (7, 5)), ((14, 14), (32, 32)), ((5, 3), (2, 9)), ((4, 4), (1, 1)), ((1, 3), (4, 2))]
)
def test_as_interpolation_and_its_gradient(old: Size, new: Size) -> None:
    own = embedding(old[0] * old[1]).requires_grad_()
    actual, expected = resample_position_embedding(own, old, new), interpolated(own, old, new)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    grad = embedding(new[0] * new[1])
    ours, theirs = (torch.autograd.grad(y, own, grad)[0] for y in (actual, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_takes_no_digits(dtype: torch.dtype) -> None:
    own = embedding(12).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        actual = resample_position_embedding(own, (3, 4), (5, 6))
    assert actual.dtype == dtype
    expected = interpolated(own.float(), (3, 4), (5, 6)).to(dtype)
    torch.testing.assert_close(actual, expected, rtol=1e-6 if dtype == torch.float32 else 8e-3, atol=1e-6)


def test_compiled_for_several_sizes() -> None:
    compiled = torch.compile(resample_position_embedding, backend="aot_eager", fullgraph=True)
    own = embedding(12)
    for new in ((5, 6), (6, 9), (7, 8)):
        torch.testing.assert_close(compiled(own, (3, 4), new), interpolated(own, (3, 4), new), rtol=1e-12, atol=1e-12)
