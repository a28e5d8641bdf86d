"""bi_wkv6's compiled CPU backend where its loops divide the work: head sizes, chunks, segments, threads, processes."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from wkv_ops_under_test import (
    WKV_OPS,
    Run,
    assert_all_agree,
    expected_output_and_gradients,
    output_and_gradients,
    output_gradient,
    poisoned_memory,
)

from vrwkv.ops import available_backends

if "cpu" not in available_backends("bi_wkv6"):
    pytest.skip("the compiled backend needs numba", allow_module_level=True)

RUN = Run(next(op for op in WKV_OPS if op.name == "bi_wkv6"), "cpu", "cpu")


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(inputs: list[Tensor], cu_seqlens: Tensor | None = None) -> None:
    """Output and gradients are those of the recurrence in float64, sequence by sequence."""
    grad = output_gradient(RUN.op, inputs)
    with poisoned_memory():
        actual = output_and_gradients(RUN, inputs, grad, cu_seqlens=cu_seqlens)
    bounds = [0, inputs[0].shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    pieces = []
    for begin, end in pairwise(bounds):
        own = [*(tensor[:, begin:end] for tensor in inputs[:4]), inputs[4]]
        pieces.append(expected_output_and_gradients(RUN.op, own, grad[:, begin:end], sequential=True))
    *per_token, grad_u = zip(*pieces, strict=True)
    assert_all_agree(RUN.op, actual, [*(torch.cat(parts, 1) for parts in per_token), torch.stack(grad_u).sum(0)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("head_dim", [1, 15, 16, 17, 64, 80, 128, 129])
def test_any_head_size(head_dim: int, dtype: torch.dtype) -> None:
    """Up to whole vectors they are padded; beyond 128 portable code takes over."""
    check(RUN.draw(21, head_dim=head_dim, dtype=dtype))


@pytest.mark.parametrize("tokens", [7, 8, 9, 255, 256, 1023, 1024, 1025, 1031, 1281])
def test_around_the_borders_of_chunks_and_segments(tokens: int) -> None:
    check(RUN.draw(tokens, batch=2, heads=2, head_dim=16, dtype=torch.float32))


@pytest.mark.parametrize("tokens", [1, 8, 33, 100, 200])
def test_fewer_heads_than_threads(tokens: int) -> None:
    """The tokens of a head are then shared out among the threads."""
    with threads(4):
        check(RUN.draw(tokens, batch=1, heads=1, head_dim=16, dtype=torch.float32))


@pytest.mark.parametrize("lengths", [(1, 1, 1), (1, 1100, 1, 8, 9), (1030, 1), (1024, 1025)], ids=str)
def test_packed_images_of_one_and_of_many_segments(lengths: tuple[int, ...]) -> None:
    cu_seqlens = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()
    check(RUN.draw(sum(lengths), batch=1, head_dim=16, dtype=torch.float32), cu_seqlens)


@pytest.mark.parametrize("fading", [-20.0, -9.0])
def test_states_that_hardly_fade_stay_exact_over_many_segments(fading: float) -> None:
    r, k, v, w, u = RUN.draw(3000, batch=1, heads=1, head_dim=2, dtype=torch.float32)
    check([r, k, v, torch.full_like(w, fading), u])


@pytest.mark.parametrize("tokens", [5, 40, 1100])
def test_same_bits_on_any_number_of_threads(tokens: int) -> None:
    inputs = RUN.draw(tokens, batch=2, heads=3, head_dim=32, dtype=torch.float32)
    grad = output_gradient(RUN.op, inputs)
    results = []
    for count in (1, 2, 3, 2):
        with threads(count):
            results.append(output_and_gradients(RUN, inputs, grad))
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            assert torch.equal(one, other)


def forked_results(inputs: list[Tensor], grad: Tensor, answer: "multiprocessing.Queue[list[list[float]]]") -> None:
    # Numbers, not tensors: those would travel through shared memory that ends with this process.
    answer.put([tensor.flatten().tolist() for tensor in output_and_gradients(RUN, inputs, grad)])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_differentiates_on_several_threads_of_a_forked_process() -> None:
    inputs = RUN.draw(40, head_dim=16, dtype=torch.float32)
    grad = output_gradient(RUN.op, inputs)
    with threads(2):
        expected = output_and_gradients(RUN, inputs, grad)
        context = multiprocessing.get_context("fork")
        answer = context.Queue()
        process = context.Process(target=forked_results, args=(inputs, grad, answer))
        process.start()
        try:
            actual = answer.get(timeout=60)
        finally:
            process.join(10)
            if process.is_alive():
                process.kill()
    assert actual == [tensor.flatten().tolist() for tensor in expected]
