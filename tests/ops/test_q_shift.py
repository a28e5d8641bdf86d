"""q_shift against a loop over every token and channel, on grids that are not square."""

import pytest
import torch
from torch import Tensor

from vrwkv.ops import q_shift


def by_loop(x: Tensor, grid: tuple[int, int], num_heads: int = 1, shift: int = 1, gamma: float = 0.25) -> Tensor:
    """Each output element fetched on its own: left, right, upper and lower neighbour, in this order of channels."""
    height, width = grid
    head_dim = x.shape[2] // num_heads
    result = torch.zeros_like(x)
    for row in range(height):
        for column in range(width):
            for channel in range(x.shape[2]):
                within = channel % head_dim
                ends = [int(head_dim * gamma * group) for group in (1, 2, 3, 4)]
                group = sum(within >= end for end in ends)
                down, right = [(0, -shift), (0, shift), (-shift, 0), (shift, 0), (0, 0)][group]
                if 0 <= row + down < height and 0 <= column + right < width:
                    source = (row + down) * width + column + right
                    result[:, row * width + column, channel] = x[:, source, channel]
    return result


def draw(grid: tuple[int, int], channels: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(channels)
    return torch.randn(batch, grid[0] * grid[1], channels, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shift", [1, 2, 7])
@pytest.mark.parametrize("num_heads", [1, 2, 3])
@pytest.mark.parametrize("grid", [(3, 5), (5, 3), (1, 4), (4, 1), (1, 1), (2, 2)], ids=str)
def test_equals_the_loop(grid: tuple[int, int], num_heads: int, shift: int) -> None:
    x = draw(grid, 12)
    expected = by_loop(x, grid, num_heads, shift)
    assert torch.equal(q_shift(x, grid, num_heads=num_heads, shift=shift), expected)


@pytest.mark.parametrize("gamma", [0.25, 0.2, 1 / 8, 1 / 12, 0.01, 0.0])
@pytest.mark.parametrize(("channels", "num_heads"), [(12, 1), (13, 1), (20, 2), (21, 3), (2, 2)])
def test_shares_and_odd_widths(channels: int, num_heads: int, gamma: float) -> None:
    """What the four groups leave over stays: below a share of 1/4, or where a head has no multiple of four channels."""
    x = draw((3, 4), channels)
    expected = by_loop(x, (3, 4), num_heads, gamma=gamma)
    assert torch.equal(q_shift(x, (3, 4), num_heads=num_heads, gamma=gamma), expected)


def test_directions_by_hand() -> None:
    x = torch.arange(1.0, 7.0)[None, :, None].expand(1, 6, 4)  # 1 2 3 over 4 5 6
    left, right, above, below = q_shift(x, (2, 3))[0].T.tolist()
    assert left == [0, 1, 2, 0, 4, 5]
    assert right == [2, 3, 0, 5, 6, 0]
    assert above == [0, 0, 0, 1, 2, 3]
    assert below == [4, 5, 6, 0, 0, 0]


def test_one_token_sees_only_zeros() -> None:
    x = draw((1, 1), 10)
    y = q_shift(x, (1, 1), gamma=0.2)
    assert (y[..., :8] == 0).all()
    assert torch.equal(y[..., 8:], x[..., 8:])


def test_no_shift_and_no_share_change_nothing() -> None:
    x = draw((2, 3), 8)
    assert torch.equal(q_shift(x, (2, 3), shift=0), x)
    assert torch.equal(q_shift(x, (2, 3), gamma=0.0), x)


@pytest.mark.parametrize("num_heads", [1, 2])
def test_gradients(num_heads: int) -> None:
    x = draw((2, 3), 10, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: q_shift(x, (2, 3), num_heads=num_heads, gamma=0.2), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtype_and_layout(dtype: torch.dtype) -> None:
    """Values are copied, so nothing rounds, whatever the memory order."""
    x = draw((3, 5), 8).to(dtype)
    transposed = x.transpose(1, 2).contiguous().transpose(1, 2)
    y = q_shift(transposed, (3, 5))
    assert y.dtype == dtype
    assert torch.equal(y, by_loop(x, (3, 5)))


def test_input_stays_as_it_is() -> None:
    x = draw((3, 5), 8)
    copy = x.clone()
    q_shift(x, (3, 5)).zero_()
    assert torch.equal(x, copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": (2, 4)}, "^x has 6 tokens, but grid 2×4 has 8"),
        ({"grid": (-2, -3)}, "^grid must be"),
        ({"grid": (6,)}, "^grid must be"),
        ({"grid": 6}, "^grid must be"),
        ({"num_heads": 3}, "^num_heads must divide the 8 channels of x, not 3"),
        ({"num_heads": 0}, "^num_heads must divide"),
        ({"shift": -1}, "^shift must be at least 0, not -1"),
        ({"gamma": 0.3}, "^gamma must be between 0 and 1/4, not 0.3"),
        ({"gamma": -0.1}, "^gamma must be between 0 and 1/4"),
        ({"x": torch.ones(6, 8)}, "^x must have shape"),
        ({"x": torch.ones(1, 6, 8, dtype=torch.int64)}, "^x must be float64"),
        ({"x": [1.0]}, "^x must be a tensor"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        q_shift(**{"x": torch.ones(1, 6, 8), "grid": (2, 3), **arguments})  # type: ignore[arg-type]
