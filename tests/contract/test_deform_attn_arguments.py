"""deform_attn refuses what does not fit, and names it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vrwkv.ops import deform_attn


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": [1.0]}, "^values must be a tensor, not list"),
        ({"values": ones(2, 7, 12)}, r"^values must have shape \(B, ΣHW, heads, head_dim\)"),
        ({"values": ones(2, 7, 3, 4, dtype=torch.int64)}, "^values must be float64"),
        ({"values": ones(2, 7, 3, 0)}, r"^values must have shape \(B, ΣHW, heads, head_dim\)"),
        ({"values": ones(2, 8, 3, 4)}, "^values has 8 tokens, but the levels of shapes .* have 7"),
        ({"shapes": [(2, 3)]}, "^values has 7 tokens, but the levels of shapes .* have 6"),
        ({"shapes": []}, r"^shapes must be a list of one \(height, width\) or more, in cells, not \[\]"),
        ({"shapes": 7}, r"^shapes must be a list of \(height, width\), not int"),
        ({"shapes": torch.tensor([[2, 3], [1, 1]])}, r"^shapes must be a list of \(height, width\), not Tensor"),
        ({"shapes": [2, 3]}, "^shapes must be a list of one"),
        ({"shapes": [(2, 3, 1), (1, 1)]}, "^shapes must be a list of one"),
        ({"shapes": [(2.0, 3), (1, 1)]}, "^shapes must be a list of one"),
        ({"shapes": [(-2, -3), (1, 1)]}, "^shapes must be a list of one"),
        ({"shapes": [(0, 3), (7, 1)]}, "^shapes must be a list of one"),
        ({"shapes": [(7, 1)]}, r"^locations must have shape \(B, Q, heads, levels, points, 2\) = \(2, ≥1, 3, 1, ≥1, 2"),
        ({"locations": None}, "^locations must be a tensor, not NoneType"),
        ({"locations": ones(1, 5, 3, 2, 4, 2)}, "^locations must have shape"),
        ({"locations": ones(2, 5, 2, 2, 4, 2)}, "^locations must have shape"),
        ({"locations": ones(2, 5, 3, 2, 4, 3)}, "^locations must have shape"),
        ({"locations": ones(2, 0, 3, 2, 4, 2)}, "^locations must have shape"),
        ({"locations": ones(2, 5, 3, 2, 4)}, "^locations must have shape"),
        ({"locations": ones(2, 5, 3, 2, 4, 2, dtype=torch.bfloat16)}, "^locations must be float32 or the dtype of va"),
        ({"locations": ones(2, 5, 3, 2, 4, 2, dtype=torch.float64)}, "^locations must be float32 or the dtype of va"),
        ({"locations": ones(2, 5, 3, 2, 4, 2, dtype=torch.int64)}, "^locations must be float64"),
        ({"locations": ones(2, 5, 3, 2, 4, 2).to("meta")}, "^locations is on meta but values is on cpu"),
        ({"weights": 1.0}, "^weights must be a tensor, not float"),
        ({"weights": ones(2, 5, 3, 8)}, r"^weights must have shape \(B, Q, heads, levels, points\)"),
        ({"weights": ones(2, 5, 3, 2, 3)}, "^weights must have shape"),
        ({"weights": ones(2, 5, 3, 2, 4, dtype=torch.float16)}, "^weights must be float32 or the dtype of values"),
        ({"weights": ones(2, 5, 3, 2, 4, dtype=torch.bool)}, "^weights must be float64"),
        ({"weights": ones(2, 5, 3, 2, 4).to("meta")}, "^weights is on meta but values is on cpu"),
        ({"backend": "cuda"}, "^backend 'cuda' does not exist for deform_attn"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    right = {
        "values": ones(2, 7, 3, 4),
        "shapes": [(2, 3), (1, 1)],
        "locations": ones(2, 5, 3, 2, 4, 2),
        "weights": ones(2, 5, 3, 2, 4),
    }
    assert deform_attn(**right).shape == (2, 5, 12)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message) as caught:
        deform_attn(**{**right, **arguments})
    assert "\n" not in str(caught.value)
