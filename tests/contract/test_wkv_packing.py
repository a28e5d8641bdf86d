"""cu_seqlens: images packed end to end give what each gives alone, outputs and gradients."""

import pytest
import torch
from torch import Tensor
from wkv_ops_under_test import (
    Run,
    assert_agrees,
    assert_all_agree,
    expected_output_and_gradients,
    output_and_gradients,
    output_gradient,
    poisoned_memory,
    runs,
)

PACKINGS = [(1,), (7,), (1, 1, 1), (1, 5, 1, 16, 33, 2), (17, 16, 15, 1), (40, 3)]


def boundaries(lengths: tuple[int, ...], dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lengths", PACKINGS, ids=str)
@runs
def test_equals_one_call_per_image(run: Run, lengths: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = run.draw(sum(lengths), batch=1, dtype=dtype)
    grad = output_gradient(run.op, inputs)
    with poisoned_memory():
        actual = output_and_gradients(run, inputs, grad, cu_seqlens=boundaries(lengths).to(run.device))

    # The definition, image by image: parameters add their gradients up, the division by T is each image's own.
    per_token = [name in run.op.per_token for name in run.op.arguments]
    totals: list[list[Tensor]] = []
    for end, length in zip(boundaries(lengths).tolist()[1:], lengths, strict=True):
        image = slice(end - length, end)
        pieces = [x[:, image] if split else x for x, split in zip(inputs, per_token, strict=True)]
        totals.append(expected_output_and_gradients(run.op, pieces, grad[:, image]))
    expected = [
        torch.cat(parts, 1) if split else torch.stack(parts).sum(0)
        for parts, split in zip(zip(*totals, strict=True), [True, *per_token], strict=True)
    ]
    assert_all_agree(run.op, actual, expected)


@runs
def test_int64_boundaries(run: Run) -> None:
    inputs = run.draw(11, batch=1)
    expected = run(*inputs, cu_seqlens=boundaries((4, 7)).to(run.device))
    assert torch.equal(run(*inputs, cu_seqlens=boundaries((4, 7), torch.int64).to(run.device)), expected)


@runs
def test_images_do_not_see_each_other(run: Run) -> None:
    inputs = run.draw(30, batch=1)
    cu_seqlens = boundaries((12, 1, 17)).to(run.device)
    before = run(*inputs, cu_seqlens=cu_seqlens)
    changed = [tensor.clone() for tensor in inputs]
    for name, tensor in zip(run.op.arguments, changed, strict=True):
        if name in run.op.per_token:
            tensor[:, 12] += 50
    after = run(*changed, cu_seqlens=cu_seqlens)
    assert torch.equal(before[:, :12], after[:, :12])
    assert torch.equal(before[:, 13:], after[:, 13:])


@runs
def test_packed_parts_of_larger_tensors(run: Run) -> None:
    """Tokens cut out of a larger batch, as a loader that packs would hand them over."""
    larger = run.draw(29, batch=3, dtype=torch.float32)
    per_token = [name in run.op.per_token for name in run.op.arguments]
    inputs = [x[1:2, 4:27] if split else x for x, split in zip(larger, per_token, strict=True)]
    cu_seqlens = boundaries((5, 18)).to(run.device)
    expected = run.op.definition(*(x.double().cpu() for x in inputs), cu_seqlens=cu_seqlens.cpu())
    with poisoned_memory():
        assert_agrees(run(*inputs, cu_seqlens=cu_seqlens), expected, "y")
