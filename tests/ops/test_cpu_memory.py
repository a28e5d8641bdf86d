"""Memory of large results: used again when nobody holds it any more, and never before."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from vrwkv.ops.cpu_runtime import memory
from vrwkv.ops.cpu_runtime.memory import empty_result, reusing_memory


@pytest.fixture(autouse=True)
def anything_is_large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(memory, "LARGEST", 1000)
    yield
    assert memory._pieces.kept is None


def made(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    result = empty_result(shape, dtype)
    assert result.shape == shape
    assert result.dtype == dtype
    assert result.is_contiguous()
    assert result.data_ptr() % 64 == 0
    return result.fill_(7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_memory_of_a_tensor_that_is_gone_is_used_again(dtype: torch.dtype) -> None:
    with reusing_memory(), torch.inference_mode():
        first = made(3, 50, 33, dtype=dtype)
        address = first.data_ptr()
        del first
        assert made(2, 50, 33, dtype=dtype).data_ptr() == address


def test_memory_that_a_view_holds_is_not() -> None:
    with reusing_memory():
        first = made(3, 50, 33)
        view = first.unbind()[2].flatten()
        address = first.data_ptr()
        del first
        assert made(2, 50, 33).zero_().data_ptr() != address
        assert (view == 7).all()
        del view
        assert made(3, 50, 33).data_ptr() == address


def test_the_smallest_that_fits_is_taken() -> None:
    with reusing_memory():
        large, small = made(3000), made(1000)
        address = small.data_ptr()
        del large, small
        assert made(900).data_ptr() == address


def test_results_outlive_the_scope() -> None:
    with reusing_memory():
        result = made(2000)
    assert (result == 7).all()


def test_small_results_other_threads_and_code_outside_get_memory_of_their_own() -> None:
    found: list[bool] = []
    with reusing_memory():
        made(100)
        assert memory._pieces.kept == []
        thread = threading.Thread(target=lambda: found.append(memory._pieces.kept is None))
        thread.start()
        thread.join()
    assert found == [True]
    assert (made(2000) == 7).all()


def test_a_scope_inside_another_keeps_its_own() -> None:
    with reusing_memory():
        outer = made(2000).data_ptr()
        with reusing_memory():
            assert made(2000).data_ptr() != outer
        assert made(2000).data_ptr() == outer
