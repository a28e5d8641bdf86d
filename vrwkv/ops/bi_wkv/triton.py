"""Bi-WKV in Triton: chunks of tokens in parallel, float32 sums, both directions from one read.

Forward, three launches: what each chunk hands on (triton_summaries.py), a scan of that over the chunks of an image, and
the outputs (triton_outputs.py). Backward, three: adjoint sums of each chunk (triton_adjoint.py), the same scan, and the
gradients (triton_gradients.py). Beside the inputs, the forward keeps the states at the chunks' borders. No program adds
to what another wrote, so that every result is the same to the bit each time: gradients in decay and bonus are written
per chunk and summed by torch.

Bytes per element (token and channel), half-precision inputs, chunks of L = 64 in blocks of 16, without a gate:

    inputs and outputs   forward 4 (summaries) + 4 + 2 (outputs); backward 6 (adjoint) + 6 + 4 (gradients)
    states               2 directions of 16 bytes a chunk, written, read, written, read: 128 / L = 2 forward; backward
                         1 (forward states, read twice) + 2
    scratch              states between blocks of 8 tokens (4 in the gradients), 8 bytes a block, kind and channel,
                         written and read: 2 forward; backward 2 + 12. Just written, so it should be in the L2 cache
    from cache           k and v again for the walk that finds those states; for the gradients k, v and grad twice more

so 12 forward and 19 backward beside scratch and cache, against 6 and 10 that must move. exps per element: 1 (summaries)
+ 2 (outputs), gates aside. A step of a walk is two multiply-adds. docs/benchmarks/gpu.md has times.

No size of decay is refused and none is looked at by the host: see triton_states.py.
"""

from typing import Any

import torch
from torch import Tensor

from vrwkv.ops.bi_wkv.triton_adjoint import summarise_adjoint_kernel
from vrwkv.ops.bi_wkv.triton_chunks import (
    BLOCK_LENGTH,
    CARRY_GROUP,
    CARRY_LANES,
    CHUNK_LENGTH,
    GRADIENT_BLOCK_LENGTH,
    LANES,
    cut_packed,
    number_of_chunks,
    number_of_programs,
)
from vrwkv.ops.bi_wkv.triton_gradients import write_gradients_kernel
from vrwkv.ops.bi_wkv.triton_outputs import write_outputs_kernel
from vrwkv.ops.bi_wkv.triton_summaries import carry_states_kernel, summarise_chunks_kernel
from vrwkv.ops.triton_runtime import INTERPRETED, triton_operator, wrap_triton

Sums = tuple[Tensor, Tensor, Tensor]  # peaks (chunks, C), scales (2, chunks, C) float64, pairs (2, 2, chunks, C)


def bi_wkv_triton(
    decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None = None, cu_seqlens: Tensor | None = None
) -> Tensor:
    """Bi-WKV by Triton kernels, in float32 for float32 and half types; arguments as `vrwkv.ops.bi_wkv`."""
    return _bi_wkv(decay, bonus, k, v, gate, cu_seqlens)[0]


def _count_chunks(k: Tensor, cu_seqlens: Tensor | None) -> int:
    return number_of_chunks(k.shape[0], k.shape[1], None if cu_seqlens is None else cu_seqlens.shape[0] - 1)


def _empty_sums(k: Tensor, chunks: int) -> Sums:
    channels = k.shape[2]
    return (
        k.new_empty((chunks, channels), dtype=torch.float32),
        k.new_empty((2, chunks, channels), dtype=torch.float64),
        k.new_empty((2, 2, chunks, channels), dtype=torch.float32),
    )


class _Launch:
    """Grids, tables and sizes that the kernels of one call share."""

    def __init__(self, k: Tensor, cu_seqlens: Tensor | None) -> None:
        batch, tokens, channels = k.shape
        self.chunks = _count_chunks(k, cu_seqlens)
        self.images = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        self.table, self.boundaries = (k, k) if cu_seqlens is None else cut_packed(cu_seqlens, tokens)
        self.sizes = (self.chunks * channels, tokens, channels)
        self.grid = (number_of_programs(self.chunks, channels),)
        self.carry_grid = ((self.images * channels + CARRY_LANES - 1) // CARRY_LANES, 2)
        self.packed = cu_seqlens is not None
        self.options: dict[str, Any] = {"LENGTH": CHUNK_LENGTH, "LANES": LANES, "PACKED": self.packed}

    def borders(self, k: Tensor, kinds: int, block: int) -> Tensor:
        """Scratch memory for states of several kinds between the blocks of each chunk."""
        return k.new_empty((kinds, CHUNK_LENGTH // block, 3, self.chunks, k.shape[2]), dtype=torch.float32)

    def carry(self, decay: Tensor, k: Tensor, scales: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """The sums that reach each chunk, from what each chunk hands on."""
        _, state_scales, state_pairs = _empty_sums(k, self.chunks)
        lanes, tokens, channels = self.sizes
        wrap_triton(carry_states_kernel)[self.carry_grid](
            decay, self.boundaries, scales, pairs, state_scales, state_pairs, lanes, self.images, tokens, channels,
            LENGTH=CHUNK_LENGTH, GROUP=CARRY_GROUP, LANES=CARRY_LANES, PACKED=self.packed, num_warps=1,
        )  # fmt: skip
        return state_scales, state_pairs


def _to_be_written(like: Tensor) -> Tensor:
    """Memory for a result; the caller casts it to its dtype, since the interpreter truncates instead of rounding."""
    return like.new_empty(like.shape, dtype=torch.float32 if INTERPRETED else like.dtype)


def _fake_forward(
    decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return v.new_empty(v.shape), *_empty_sums(k, _count_chunks(k, cu_seqlens))


@triton_operator("vrwkv::bi_wkv_triton", _fake_forward)
def _bi_wkv(
    decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, and the sums at the borders of chunks that the backward starts from."""
    decay, bonus, k, v = decay.contiguous(), bonus.contiguous(), k.contiguous(), v.contiguous()
    launch = _Launch(k, cu_seqlens)
    peaks, scales, pairs = _empty_sums(k, launch.chunks)
    wrap_triton(summarise_chunks_kernel)[launch.grid](
        k, v, decay, bonus, launch.table, peaks, scales, pairs, *launch.sizes, BLOCK=BLOCK_LENGTH, **launch.options
    )
    state_scales, state_pairs = launch.carry(decay, k, scales, pairs)
    y = _to_be_written(v)
    opened = v if gate is None else gate.contiguous()
    wrap_triton(write_outputs_kernel)[launch.grid](
        k, v, opened, y, launch.borders(k, 1, BLOCK_LENGTH), decay, bonus,
        launch.table, peaks, state_scales, state_pairs,
        *launch.sizes, BLOCK=BLOCK_LENGTH, GATED=gate is not None, **launch.options,
    )  # fmt: skip
    return y.to(v.dtype), peaks, state_scales, state_pairs


def _fake_backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None,
    peaks: Tensor, scales: Tensor, pairs: Tensor,
) -> list[Tensor]:  # fmt: skip
    inputs = (decay, bonus, k, v) if gate is None else (decay, bonus, k, v, gate)
    return [tensor.new_empty(tensor.shape) for tensor in inputs]


@triton_operator("vrwkv::bi_wkv_triton_backward", _fake_backward)
def _bi_wkv_backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None,
    peaks: Tensor, scales: Tensor, pairs: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Gradients in decay, bonus, k, v and, if there is one, gate."""
    decays, bonuses, k, v, grad = (tensor.contiguous() for tensor in (decay, bonus, k, v, grad))
    launch = _Launch(k, cu_seqlens)
    gated = gate is not None
    opened = v if gate is None else gate.contiguous()
    grad_k, grad_v = _to_be_written(k), _to_be_written(v)
    grad_gate = _to_be_written(v) if gated else grad_v
    adjoint_peaks, adjoint_scales, adjoint_pairs = _empty_sums(k, launch.chunks)
    wrap_triton(summarise_adjoint_kernel)[launch.grid](
        grad, k, v, opened, grad_gate, launch.borders(k, 1, BLOCK_LENGTH), decays, bonuses, launch.table,
        peaks, scales, pairs, adjoint_peaks, adjoint_scales, adjoint_pairs,
        *launch.sizes, BLOCK=BLOCK_LENGTH, GATED=gated, **launch.options,
    )  # fmt: skip
    adjoint_scales, adjoint_pairs = launch.carry(decays, k, adjoint_scales, adjoint_pairs)
    partials = k.new_empty((2, launch.chunks, k.shape[2]), dtype=torch.float32)
    wrap_triton(write_gradients_kernel)[launch.grid](
        grad, k, v, opened, grad_k, grad_v, partials, launch.borders(k, 3, GRADIENT_BLOCK_LENGTH), decays, bonuses,
        launch.table, peaks, scales, pairs, adjoint_peaks, adjoint_scales, adjoint_pairs,
        *launch.sizes, BLOCK=GRADIENT_BLOCK_LENGTH, GATED=gated, **launch.options,
    )  # fmt: skip
    grad_decay, grad_bonus = partials.sum(1).unbind(0)
    gradients = [grad_decay.to(decay.dtype, copy=True), grad_bonus.to(bonus.dtype, copy=True)]
    gradients += [grad_k.to(k.dtype), grad_v.to(v.dtype)]
    return [*gradients, grad_gate.to(v.dtype)] if gated else gradients


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    saved = ctx.saved_tensors  # once: checkpointing computes them anew at each access
    gate = saved[4]
    gradients = _bi_wkv_backward(grad, *saved)
    return (*gradients, *([None] if gate is None else []), None)


_bi_wkv.register_autograd(_differentiate, setup_context=_save_for_backward)
