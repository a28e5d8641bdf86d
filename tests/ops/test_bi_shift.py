"""bi_shift against a loop over every token and channel."""

import pytest
import torch
from torch import Tensor

from vrwkv.ops import bi_shift


def by_loop(x: Tensor, num_heads: int) -> Tensor:
    num_tokens, channels = x.shape[1:]
    head_dim = channels // num_heads
    result = torch.zeros_like(x)
    for token in range(num_tokens):
        for channel in range(channels):
            source = token - 1 if channel % head_dim < head_dim // 2 else token + 1
            if 0 <= source < num_tokens:
                result[:, token, channel] = x[:, source, channel]
    return result


def draw(tokens: int, channels: int) -> Tensor:
    return torch.randn(2, tokens, channels, generator=torch.Generator().manual_seed(tokens), dtype=torch.float64)


@pytest.mark.parametrize("num_heads", [1, 2, 3, 6])
@pytest.mark.parametrize("tokens", [1, 2, 3, 77])
def test_equals_the_loop(tokens: int, num_heads: int) -> None:
    x = draw(tokens, 12)
    assert torch.equal(bi_shift(x, num_heads=num_heads), by_loop(x, num_heads))


def test_directions_by_hand() -> None:
    x = torch.tensor([[[1.0, 10, 100, 1000], [2, 20, 200, 2000], [3, 30, 300, 3000]]])
    assert bi_shift(x).tolist() == [[[0, 0, 200, 2000], [1, 10, 300, 3000], [2, 20, 0, 0]]]
    assert bi_shift(x, num_heads=2).tolist() == [[[0, 20, 0, 2000], [1, 30, 100, 3000], [2, 0, 200, 0]]]


def test_gradients() -> None:
    assert torch.autograd.gradcheck(lambda x: bi_shift(x, num_heads=2), (draw(4, 8).requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtype_and_layout(dtype: torch.dtype) -> None:
    x = draw(5, 8).to(dtype)
    y = bi_shift(x.transpose(1, 2).contiguous().transpose(1, 2), num_heads=2)
    assert y.dtype == dtype
    assert torch.equal(y, by_loop(x, 2))


@pytest.mark.parametrize(
    ("x", "num_heads", "message"),
    [
        (torch.ones(1, 3, 6), 2, "^x has 6 channels, which num_heads=2 heads of even size cannot share"),
        (torch.ones(1, 3, 8), 0, "num_heads=0"),
        (torch.ones(1, 3, 8), -2, "num_heads=-2"),
        (torch.ones(3, 8), 1, "^x must have shape"),
        (torch.ones(1, 3, 8, dtype=torch.int64), 1, "^x must be float64"),
        ("text", 1, "^x must be a tensor"),
    ],
)
def test_wrong_arguments(x: object, num_heads: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bi_shift(x, num_heads=num_heads)  # type: ignore[arg-type]
