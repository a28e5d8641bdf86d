"""What bi_wkv and bi_wkv6 say about wrong arguments: a ValueError that names the argument, before any work is done."""

from typing import Any

import pytest
import torch
from torch import Tensor
from wkv_ops_under_test import WKV_OPS, WkvOp

ARGUMENTS = [(op, name) for op in WKV_OPS for name in op.arguments]
each_argument = pytest.mark.parametrize(("op", "name"), ARGUMENTS, ids=[f"{op.name}-{name}" for op, name in ARGUMENTS])
each_op = pytest.mark.parametrize("op", WKV_OPS, ids=lambda op: op.name)


def assert_refused(op: WkvOp, name: str, value: Any, message: str) -> None:
    """`op` with its argument `name` replaced is refused, naming that argument first."""
    arguments = dict(zip(op.arguments, op.draw(6, dtype=torch.float32), strict=True))
    arguments[name] = value
    with pytest.raises(ValueError, match=f"^{name} .*{message}") as caught:
        op.function(*arguments.values())
    assert "\n" not in str(caught.value)


def argument(op: WkvOp, name: str) -> Tensor:
    return op.draw(6, dtype=torch.float32)[op.arguments.index(name)]


@each_argument
def test_wrong_number_of_axes(op: WkvOp, name: str) -> None:
    assert_refused(op, name, argument(op, name)[None], "must have shape")
    assert_refused(op, name, argument(op, name)[0], "must have shape")


@each_argument
def test_empty(op: WkvOp, name: str) -> None:
    assert_refused(op, name, argument(op, name)[:0], "must have shape")


@pytest.mark.parametrize(
    ("op", "name"),
    [(op, name) for op in WKV_OPS for name in op.arguments if name not in ("r" if op.name == "bi_wkv6" else "k")],
)
def test_any_axis_of_the_wrong_size(op: WkvOp, name: str) -> None:
    """One more along each axis; the first token argument is the one that the others are measured by."""
    tensor = argument(op, name)
    for axis in range(tensor.ndim):
        wrong = torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
        assert_refused(op, name, wrong, "must have shape")


@each_argument
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.complex64, torch.uint8], ids=str)
def test_wrong_dtype(op: WkvOp, name: str, dtype: torch.dtype) -> None:
    assert_refused(op, name, argument(op, name).to(dtype), f"must be float64.*not {dtype}")


@each_argument
def test_not_a_tensor(op: WkvOp, name: str) -> None:
    assert_refused(op, name, argument(op, name).tolist(), "must be a tensor, not list")
    assert_refused(op, name, None, "must be a tensor, not NoneType")


@each_argument
def test_wrong_device(op: WkvOp, name: str) -> None:
    """The message names both; which of the two is misplaced only the caller knows."""
    arguments = dict(zip(op.arguments, op.draw(6), strict=True))
    arguments[name] = arguments[name].to("meta")
    with pytest.raises(ValueError, match="move them to one device") as caught:
        op.function(*arguments.values())
    assert f"{name} is on meta" in str(caught.value)
    assert "is on cpu" in str(caught.value)


@each_op
def test_token_arguments_of_two_dtypes(op: WkvOp) -> None:
    for name in ("k", "v"):
        arguments = dict(zip(op.arguments, op.draw(6, dtype=torch.float32), strict=True))
        arguments[name] = arguments[name].bfloat16()
        with pytest.raises(ValueError, match=f"{name} is torch.bfloat16.*|.*{name} is torch.bfloat16") as caught:
            op.function(*arguments.values())
        assert "cast them to one dtype" in str(caught.value)


BAD_BOUNDARIES = {
    "not_from_zero": (torch.tensor([1, 6]), "increase from 0"),
    "too_short": (torch.tensor([0, 3, 5]), "increase from 0"),
    "too_long": (torch.tensor([0, 3, 7]), "increase from 0"),
    "decreasing": (torch.tensor([0, 4, 3, 6]), "increase from 0"),
    "empty_image": (torch.tensor([0, 3, 3, 6]), "increase from 0"),
    "negative": (torch.tensor([0, -1, 6]), "increase from 0"),
    "one_boundary": (torch.tensor([0]), "1-D int32"),
    "none_at_all": (torch.tensor([], dtype=torch.int32), "1-D int32"),
    "two_axes": (torch.tensor([[0, 6]]), "1-D int32"),
    "no_axis": (torch.tensor(6), "1-D int32"),
    "float": (torch.tensor([0.0, 6.0]), "1-D int32"),
    "bool": (torch.tensor([False, True]), "1-D int32"),
    "other_device": (torch.tensor([0, 6], device="meta"), "on meta but the tokens are on cpu"),
    "list": ([0, 6], "tensor"),
}


@pytest.mark.parametrize("case", BAD_BOUNDARIES)
@each_op
def test_wrong_boundaries(op: WkvOp, case: str) -> None:
    cu_seqlens, message = BAD_BOUNDARIES[case]
    if isinstance(cu_seqlens, Tensor) and cu_seqlens.dtype == torch.int64:
        cu_seqlens = cu_seqlens.int()
    with pytest.raises(ValueError, match=f"^cu_seqlens .*{message}"):
        op.function(*op.draw(6, batch=1), cu_seqlens=cu_seqlens)


@each_op
def test_packing_needs_a_batch_of_one(op: WkvOp) -> None:
    with pytest.raises(ValueError, match=r"^cu_seqlens packs images end to end in a batch of one, but the batch is 2"):
        op.function(*op.draw(6, batch=2), cu_seqlens=torch.tensor([0, 6], dtype=torch.int32))


@each_op
def test_arguments_are_checked_for_every_backend(op: WkvOp) -> None:
    arguments = op.draw(6)
    arguments[0] = arguments[0][None]
    for backend in ("torch", "naive"):
        with pytest.raises(ValueError, match=f"^{op.arguments[0]} must have shape"):
            op.function(*arguments, backend=backend)
