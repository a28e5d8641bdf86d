"""The compiled CPU backend of Bi-WKV; its loops are in cpu_forward.py and cpu_backward.py."""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vrwkv.ops.bi_wkv.operator import differentiable_operator
from vrwkv.ops.bi_wkv.portable import bi_wkv_torch, portable_backward, portable_forward
from vrwkv.ops.cpu_runtime.eager import records_gradient, runs_eagerly
from vrwkv.ops.cpu_runtime.memory import empty_result
from vrwkv.ops.exporting import standard_operators_only

if TYPE_CHECKING:  # they import the compiler
    from vrwkv.ops.bi_wkv.cpu_plan import Plan
    from vrwkv.ops.cpu_runtime.kernel import Prepared


def bi_wkv_cpu(
    decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None = None, cu_seqlens: Tensor | None = None
) -> Tensor:
    """Bi-WKV on the CPU, compiled for its vector units; arguments as `vrwkv.ops.bi_wkv`."""
    if standard_operators_only():
        return bi_wkv_torch(decay, bonus, k, v, gate, cu_seqlens)
    if runs_eagerly(k):
        run = _Eager.apply if records_gradient(decay, bonus, k, v, gate) else _forward
        return run(decay, bonus, k, v, gate, cu_seqlens)
    return _bi_wkv_cpu(decay, bonus, k, v, gate, cu_seqlens)


class _Inputs:
    """Inputs as the loops want them: contiguous, float32 or bfloat16, at least 16 channels; and their plan."""

    def __init__(
        self,
        decay: Tensor,
        bonus: Tensor,
        k: Tensor,
        v: Tensor,
        gate: Tensor | None,
        cu_seqlens: Tensor | None,
        grad: Tensor | None = None,
    ) -> None:
        from vrwkv.ops.bi_wkv.cpu_plan import make_plan
        from vrwkv.ops.cpu_runtime.kernel import STORAGE
        from vrwkv.ops.cpu_runtime.vectors import LANES

        self.missing = max(0, LANES - k.shape[2])
        self.dtype = k.dtype if k.dtype in STORAGE else torch.float32
        self.storage = STORAGE[self.dtype]
        self.decay, self.bonus = (self._pad(tensor.detach().float()) for tensor in (decay, bonus))
        self.k, self.v = self._store(k), self._store(v)
        self.gate, self.grad = (None if tensor is None else self._store(tensor) for tensor in (gate, grad))
        self.channels = self.k.shape[2]
        self.blocks = -(-self.channels // LANES)
        lengths = (k.shape[1],) * k.shape[0] if cu_seqlens is None else tuple(cu_seqlens.diff().tolist())
        self.plan = make_plan(self.decay, self.bonus, lengths)

    def _store(self, tensor: Tensor) -> Tensor:
        return self._pad(tensor.detach().to(self.dtype))

    def _pad(self, tensor: Tensor) -> Tensor:
        return (F.pad(tensor, (0, self.missing)) if self.missing else tensor).contiguous()

    def unpad(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Without the channels that were added, in the caller's dtype."""
        return (tensor[..., : self.channels - self.missing] if self.missing else tensor).to(dtype).contiguous()


def _states(
    plan: "Plan", decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, storage: int
) -> tuple[Tensor | None, list["Prepared"], Tensor | None]:
    """States between chunks (n, 5, C), the calls that compute them, and what must be kept until those are done.

    No states where every sequence is one chunk.
    """
    from vrwkv.ops.bi_wkv import cpu_forward as loops
    from vrwkv.ops.cpu_runtime.vectors import LANES

    chunks, sequences, count, whole = plan
    if whole:
        return None, [], None
    channels = len(decay)
    blocks = -(-channels // LANES)
    summaries, states = decay.new_empty(2, count, 5, channels)
    scratch = states.new_empty(count, 3, channels, dtype=torch.float64)
    calls = [
        loops.summarise_chunks.prepare(count * blocks, k, v, decay, chunks, summaries, channels, storage),
        loops.carry_states.prepare(
            len(sequences) * blocks, decay, bonus, chunks, sequences, summaries, states, scratch, channels
        ),
    ]
    return states, calls, scratch


def write_means(
    plan: "Plan", decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, y: Tensor, storage: int
) -> None:
    """Bi-WKV by a plan, from and into memory that is contiguous; decay and bonus are float32.

    Args:
        plan: see `make_plan`.
        decay, bonus: (C,) float32, C at least 16.
        k, v, gate: the tokens of all sequences, C channels each.
        y: of the same size; takes the result.
        storage: the type of k, v, gate and y.
    """
    from vrwkv.ops.bi_wkv import cpu_forward as loops
    from vrwkv.ops.cpu_runtime.kernel import run_calls
    from vrwkv.ops.cpu_runtime.vectors import LANES

    states, calls, _kept = _states(plan, decay, bonus, k, v, storage)
    channels = len(decay)
    calls.append(
        loops.write_outputs.prepare(
            plan.count * -(-channels // LANES), k, v, gate, y, decay, bonus, plan.chunks, states, channels, storage
        )
    )
    run_calls(*calls, elements=y.numel())


def _forward(
    decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None
) -> Tensor:
    inputs = _Inputs(decay, bonus, k, v, gate, cu_seqlens)
    if inputs.plan is None:
        return portable_forward(decay, bonus, k, v, gate, cu_seqlens)
    y = empty_result(inputs.v.shape, inputs.dtype)
    write_means(inputs.plan, inputs.decay, inputs.bonus, inputs.k, inputs.v, inputs.gate, y, inputs.storage)
    return inputs.unpad(y, v.dtype)


def _backward(
    grad: Tensor,
    decay: Tensor,
    bonus: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor | None,
    cu_seqlens: Tensor | None,
) -> list[Tensor]:
    from vrwkv.ops.bi_wkv import cpu_backward as loops
    from vrwkv.ops.cpu_runtime.kernel import run_calls

    inputs = _Inputs(decay, bonus, k, v, gate, cu_seqlens, grad)
    if inputs.plan is None:
        return portable_backward(grad, decay, bonus, k, v, gate, cu_seqlens)
    (chunks, sequences, count, _), channels, blocks = inputs.plan, inputs.channels, inputs.blocks
    states, calls, _kept = _states(inputs.plan, inputs.decay, inputs.bonus, inputs.k, inputs.v, inputs.storage)
    asked = None
    if states is not None:
        run_calls(*calls, elements=inputs.k.numel())
        summaries, asked = states.new_empty(2, count, 4, channels)
        scratch = states.new_empty(count, 3, channels, dtype=torch.float64)
        loops.ask_chunks(
            count * blocks, inputs.k, inputs.v, inputs.gate, inputs.grad, inputs.decay, inputs.bonus, chunks, states,
            summaries, channels, inputs.storage, elements=inputs.k.numel(),
        )  # fmt: skip
        loops.carry_asked(
            len(sequences) * blocks, inputs.decay, chunks, sequences, states, summaries, asked, scratch, channels,
            elements=asked.numel(),
        )  # fmt: skip
    grad_k, grad_v = torch.empty_like(inputs.k), torch.empty_like(inputs.v)
    grad_gate = None if gate is None else torch.empty_like(inputs.k)
    sums = inputs.decay.new_empty(count, 2, channels)
    loops.write_gradients(
        count * blocks, inputs.k, inputs.v, inputs.gate, inputs.grad, inputs.decay, inputs.bonus, chunks,
        states, asked, grad_k, grad_v, grad_gate, sums, channels, inputs.storage, elements=2 * inputs.k.numel(),
    )  # fmt: skip
    grad_decay, grad_bonus = sums.sum(0, dtype=torch.float64).unbind(0)
    gradients = [
        inputs.unpad(grad_decay, decay.dtype),
        inputs.unpad(grad_bonus, bonus.dtype),
        inputs.unpad(grad_k, k.dtype),
        inputs.unpad(grad_v, v.dtype),
    ]
    return gradients if grad_gate is None else [*gradients, inputs.unpad(grad_gate, k.dtype)]


class _Eager(torch.autograd.Function):
    """The operator without torch's dispatcher."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor | None) -> Tensor:
        ctx.save_for_backward(*inputs)
        return _forward(*inputs)  # type: ignore[arg-type]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        gradients = _backward(grad, *inputs)
        return (*gradients, *([None] if inputs[4] is None else []), None)


_bi_wkv_cpu = differentiable_operator("vrwkv::bi_wkv_cpu", _forward, _backward, device_types="cpu")
