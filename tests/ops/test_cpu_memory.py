"""Memory of results: used again when nobody holds it any more, and never before."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from vrwkv.ops.cpu_runtime import memory
from vrwkv.ops.cpu_runtime.memory import empty_result, reusing_memory


@pytest.fixture(autouse=True)
def anything_is_large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(memory, "SMALLEST", 1000)
    monkeypatch.setattr(memory._pieces, "kept", [])
    yield
    assert memory._pieces.scopes == 0


def made(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    result = empty_result(shape, dtype)
    assert result.shape == shape
    assert result.dtype == dtype
    assert result.is_contiguous()
    assert result.data_ptr() % 64 == 0
    return result.fill_(7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
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


def test_memory_is_kept_from_scope_to_scope() -> None:
    with reusing_memory():
        address = made(2000).data_ptr()
    with reusing_memory():
        assert made(2000).data_ptr() == address


def test_what_is_held_at_the_end_of_a_scope_is_the_holders_own() -> None:
    with reusing_memory():
        result, address = made(2000), made(3000).data_ptr()
    assert [piece.size for piece in memory._pieces.kept] == [12000]
    held = result.data_ptr()
    del result
    with reusing_memory():
        assert {made(2000).data_ptr(), made(3000).data_ptr()} == {address}
        assert memory._pieces.kept[-1]._memory.ctypes.data != held


def test_so_much_is_kept_and_what_was_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KEPT", 14000)
    with reusing_memory():
        results = [made(1000), made(2000), made(1500)]
        del results
        made(900)
    assert [piece.size for piece in memory._pieces.kept] == [6000, 4000]


def test_much_memory_is_not_handed_out_for_little() -> None:
    with reusing_memory():
        address = made(memory.MOST_UNUSED * 300 + 1).data_ptr()
        assert made(300).data_ptr() != address
        assert made(301).data_ptr() == address


def test_small_results_other_threads_and_code_outside_get_memory_of_their_own() -> None:
    found: list[tuple[int, list[object]]] = []
    with reusing_memory():
        made(100)
        assert memory._pieces.kept == []
        made(2000)
        thread = threading.Thread(target=lambda: found.append((memory._pieces.scopes, memory._pieces.kept)))
        thread.start()
        thread.join()
    assert found == [(0, [])]
    kept = list(memory._pieces.kept)
    assert (made(2000) == 7).all()
    assert memory._pieces.kept == kept
    assert all(piece.is_free() for piece in kept)


def test_a_scope_inside_another_shares_its_memory_and_leaves_it() -> None:
    with reusing_memory():
        held, outer = made(3000), made(2000).data_ptr()
        with reusing_memory():
            assert made(2000).data_ptr() == outer
        assert made(2000).data_ptr() == outer
        address = held.data_ptr()
        del held
        assert made(3000).data_ptr() == address
