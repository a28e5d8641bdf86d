"""The compiled CPU backend of Bi-WKV6; its loops are in cpu_states.py, cpu_forward.py and cpu_backward.py."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vrwkv.ops.bi_wkv6.operator import Gradients, differentiable_operator
from vrwkv.ops.bi_wkv6.portable import bi_wkv6_torch, portable_backward, portable_forward
from vrwkv.ops.cpu_runtime.memory import empty_result
from vrwkv.ops.exporting import standard_operators_only

LARGEST_HEAD = 128  # channels; larger states do not stay in the cache, and are left to the portable backend


def bi_wkv6_cpu(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """Bi-WKV6 on the CPU, compiled for its vector units; arguments as `vrwkv.ops.bi_wkv6`."""
    if standard_operators_only():
        return bi_wkv6_torch(r, k, v, w, u, cu_seqlens)
    return _bi_wkv6_cpu(r, k, v, w, u, cu_seqlens)


class _Inputs:
    """Inputs as the loops want them: contiguous, float32 or bfloat16, heads of whole vectors; and their plan."""

    def __init__(
        self,
        r: Tensor,
        k: Tensor,
        v: Tensor,
        w: Tensor,
        u: Tensor,
        cu_seqlens: Tensor | None,
        grad: Tensor | None = None,
    ) -> None:
        from vrwkv.ops.bi_wkv6.cpu_plan import make_plan
        from vrwkv.ops.cpu_runtime.kernel import STORAGE
        from vrwkv.ops.cpu_runtime.vectors import LANES

        self.missing = -v.shape[3] % LANES
        self.dtype, self.w_dtype = (tensor.dtype if tensor.dtype in STORAGE else torch.float32 for tensor in (v, w))
        self.storage, self.w_storage = STORAGE[self.dtype], STORAGE[self.w_dtype]
        self.r, self.k, self.v = (self._pad(tensor, self.dtype) for tensor in (r, k, v))
        self.grad = None if grad is None else self._pad(grad, self.dtype)
        self.w, self.u = self._pad(w, self.w_dtype), self._pad(u, torch.float32)
        self.heads, self.size = self.v.shape[2:]
        self.plan = make_plan(self.v, cu_seqlens)
        self.items = self.plan.num_segments * self.heads
        self.workers = min(torch.get_num_threads(), self.items)
        self.work = 8 * self.v.numel()  # each number written is a sum over a head

    def _pad(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        tensor = tensor.detach().to(dtype)
        return (F.pad(tensor, (0, self.missing)) if self.missing else tensor).contiguous()

    def unpad(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Without the channels that were added, in the caller's dtype."""
        return (tensor[..., : self.size - self.missing] if self.missing else tensor).to(dtype).contiguous()

    def scratch(self, numbers: int) -> tuple[Tensor, int]:
        """Memory for so many float32 numbers for each worker, and the bytes of each."""
        memory = self.v.new_empty(self.workers, numbers, dtype=torch.float32)
        return memory, numbers * 4


def _states(inputs: _Inputs, rows: Tensor, columns: Tensor) -> Tensor | None:
    """States (M, 2, N, N) of rows ⊗ columns that reach each segment; None where every sequence is one segment."""
    from vrwkv.ops.bi_wkv6 import cpu_states as loops
    from vrwkv.ops.bi_wkv6.cpu_plan import CHUNK

    plan, items, heads, size = inputs.plan, inputs.items, inputs.heads, inputs.size
    if plan.whole:
        return None
    tasks = len(plan.sequences) * heads
    states = inputs.u.new_empty(items, 2, size, size)
    fades, running = states.new_empty(items, size), states.new_empty(tasks, size, size)
    scratch, scratch_bytes = inputs.scratch((3 * CHUNK + 2) * size)
    loops.summarise_segments(
        inputs.workers, rows, columns, inputs.w, plan.segments, states, fades, scratch, scratch_bytes,
        items, inputs.workers, heads, size, inputs.storage, inputs.w_storage,
        elements=inputs.work,
    )  # fmt: skip
    loops.carry_states(tasks, plan.sequences, states, fades, running, heads, size, elements=states.numel())
    return states


def _forward(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    if v.shape[3] > LARGEST_HEAD:
        return portable_forward(r, k, v, w, u, cu_seqlens)
    inputs = _Inputs(r, k, v, w, u, cu_seqlens)
    y = empty_result(inputs.v.shape, inputs.v.dtype)
    _write_outputs(inputs, y)
    return inputs.unpad(y, v.dtype)


def write_outputs(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, y: Tensor) -> None:
    """Bi-WKV6 of (B, T, H, N) into `y`: all contiguous float32, N a multiple of 16 and at most LARGEST_HEAD."""
    _write_outputs(_Inputs(r, k, v, w, u, None), y)


def _write_outputs(inputs: _Inputs, y: Tensor) -> None:
    from vrwkv.ops.bi_wkv6 import cpu_forward as loops
    from vrwkv.ops.bi_wkv6.cpu_plan import CHUNK

    plan, size = inputs.plan, inputs.size
    chunks = -(-plan.longest // CHUNK)
    scratch, scratch_bytes = inputs.scratch(size * size + (2 * size + CHUNK) * CHUNK + chunks * (4 * CHUNK + 1) * size)
    loops.write_outputs(
        inputs.workers, inputs.r, inputs.k, inputs.v, inputs.w, inputs.u, y, plan.segments,
        _states(inputs, inputs.k, inputs.v), scratch, scratch_bytes, inputs.items, inputs.workers, inputs.heads, size,
        inputs.storage, inputs.w_storage, elements=inputs.work,
    )  # fmt: skip


def _backward(
    grad: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, cu_seqlens: Tensor | None
) -> Gradients:
    if v.shape[3] > LARGEST_HEAD:
        return portable_backward(grad, r, k, v, w, u, cu_seqlens)
    from vrwkv.ops.bi_wkv6 import cpu_backward as loops
    from vrwkv.ops.bi_wkv6.cpu_chunk_gradients import NOTED, WORKING
    from vrwkv.ops.bi_wkv6.cpu_plan import CHUNK
    from vrwkv.ops.cpu_runtime.vectors import LANES

    inputs = _Inputs(r, k, v, w, u, cu_seqlens, grad)
    assert inputs.grad is not None
    plan, items, heads, size = inputs.plan, inputs.items, inputs.heads, inputs.size
    grad_r, grad_k, grad_v = (torch.empty_like(tensor) for tensor in (inputs.r, inputs.k, inputs.v))
    grad_w, sums = torch.empty_like(inputs.w), inputs.u.new_empty(items, size)
    chunks = -(-plan.longest // CHUNK)
    noted = 3 * CHUNK * size + 2 * CHUNK * CHUNK + NOTED // 4 + 2 * LANES * size
    scratch, scratch_bytes = inputs.scratch(chunks * noted + 3 * LANES * size + WORKING // 4)
    loops.write_gradients(
        inputs.workers, inputs.r, inputs.k, inputs.v, inputs.w, inputs.u, inputs.grad, plan.segments,
        _states(inputs, inputs.k, inputs.v), _states(inputs, inputs.r, inputs.grad), grad_r, grad_k, grad_v, grad_w,
        sums, scratch, scratch_bytes, chunks, items, inputs.workers, heads, size, inputs.storage, inputs.w_storage,
        elements=inputs.work,
    )  # fmt: skip
    grad_u = sums.view(plan.num_segments, heads, size).sum(0, dtype=torch.float64)
    return (
        inputs.unpad(grad_r, r.dtype),
        inputs.unpad(grad_k, k.dtype),
        inputs.unpad(grad_v, v.dtype),
        inputs.unpad(grad_w, w.dtype),
        inputs.unpad(grad_u, u.dtype),
    )


_bi_wkv6_cpu = differentiable_operator("vrwkv::bi_wkv6_cpu", _forward, _backward, device_types="cpu")
