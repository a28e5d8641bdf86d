"""Wrong arguments of shift_mix and bi_shift_mix: one line each, which names the argument."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vrwkv.ops import bi_shift_mix, shift_mix


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


Error = tuple[dict[str, Any], str]

COMMON_ERRORS: list[Error] = [
    ({"x": [1.0]}, "^x must be a tensor, not list"),
    ({"x": ones(7, 8)}, "^x must have shape"),
    ({"x": ones(1, 7, 8, dtype=torch.int64)}, "^x must be float64"),
    ({"share": None}, "^share must be a tensor, not NoneType"),
    ({"share": ones(8)}, r"^share must have shape \(M, C\)"),
    ({"share": ones(0, 8)}, r"^share must have shape \(M, C\)"),
    ({"share": ones(2, 7)}, r"^share must have shape \(M, C\)"),
    ({"share": ones(2, 8, dtype=torch.float16)}, "^share must be float32 or the dtype of x, torch.float32, not"),
    ({"share": ones(2, 8).to("meta")}, "^share is on meta but x is on cpu"),
    ({"correction": ones(2, 1, 7, 7)}, r"^correction must have shape \(M, B, T, C\)"),
    ({"correction": ones(1, 1, 7, 8)}, r"^correction must have shape \(M, B, T, C\)"),
    ({"correction": ones(2, 1, 7, 8, dtype=torch.float16)}, "^correction is torch.float16 but x is torch.float32"),
    ({"correction": ones(2, 1, 7, 8, dtype=torch.int32)}, "^correction must be float64"),
    ({"correction": ones(2, 1, 7, 8).to("meta")}, "^correction is on meta but x is on cpu"),
    ({"backend": "cuda"}, "^backend 'cuda' does not exist for shift_mix"),
]
IMAGE_ERRORS: list[Error] = [
    ({"x": ones(1, 5, 8)}, "^x has 5 tokens, but grid 2×3 has 6"),
    ({"norm_weight": ones(8)}, "^norm_bias is missing"),
    ({"norm_bias": ones(8)}, "^norm_weight is missing"),
    ({"norm_weight": ones(7), "norm_bias": ones(8)}, "^norm_weight must have shape"),
    ({"norm_weight": ones(8), "norm_bias": ones(1, 8)}, "^norm_bias must have shape"),
    ({"norm_weight": 1.0, "norm_bias": ones(8)}, "^norm_weight must be a tensor"),
    ({"norm_weight": ones(8), "norm_bias": ones(8, dtype=torch.float64)}, "^norm_bias must be float32 or"),
    ({"norm_eps": 0.0}, "^norm_eps must be above 0, not 0.0"),
    ({"grid": (2, 4)}, "^x has 7 tokens, but grid 2×4 has 8"),
    ({"grid": (-2, -3)}, "^grid must be"),
    ({"grid": (6,)}, "^grid must be"),
    ({"grid": 6}, "^grid must be"),
    ({"num_heads": 3}, "^num_heads must divide the 8 channels of x, not 3"),
    ({"num_heads": 0}, "^num_heads must divide"),
    ({"shift": -1}, "^shift must be at least 0, not -1"),
    ({"gamma": 0.3}, "^gamma must be between 0 and 1/4, not 0.3"),
]
TEXT_ERRORS: list[Error] = [
    ({"num_heads": 3}, "^x has 8 channels, which num_heads=3 heads of even size cannot share"),
    ({"num_heads": 0}, "^x has 8 channels, which num_heads=0 heads"),
]


@pytest.mark.parametrize(("arguments", "message"), COMMON_ERRORS + IMAGE_ERRORS)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        shift_mix(**{"x": ones(1, 7, 8), "share": ones(2, 8), "grid": (2, 3), **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("arguments", "message"), COMMON_ERRORS + TEXT_ERRORS)
def test_wrong_arguments_for_text(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bi_shift_mix(**{"x": ones(1, 7, 8), "share": ones(2, 8), **arguments})
