"""Bi-WKV in Triton: spans of tokens in parallel, each read once, float32 sums.

Forward: one launch (triton_outputs.py), in which a program holds a span of 256 or 384 tokens of 16 channels in
registers. The spans of a longer image hand their sums to each other while they run (triton_exchange.py); where an image
has more spans than certainly run at the same time, two launches do. Backward likewise (triton_gradients.py). What plain
sums over a span are not right for is left to a second kernel (triton_steep.py), which looks at the parameters and
mostly ends at once; the host looks at none.

Bytes per element (token and channel) in half precision, without a gate: 4 + 2 forward, 6 + 4 backward, which is what
must move. Sums between spans add 20 bytes a span and channel, written once and read by the image's other programs.
No program adds to what another wrote, so that every result is the same to the bit each time: gradients in decay and
bonus are written per span and summed by torch.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from vrwkv.ops.bi_wkv.triton_exchange import UNWRITTEN_BITS
from vrwkv.ops.bi_wkv.triton_gradients import gradients_kernel
from vrwkv.ops.bi_wkv.triton_outputs import outputs_kernel
from vrwkv.ops.bi_wkv.triton_spans import NEIGHBOURS, STEEP_BLOCK, STEEP_LANES, Cut, cut, cut_packed, most_spans
from vrwkv.ops.bi_wkv.triton_steep import steep_gradients_kernel, steep_outputs_kernel
from vrwkv.ops.triton_runtime import INTERPRETED, PTX, triton_operator

STEEP_PROGRAMS = 64  # each has memory of its own for a whole image's states
FEW_SPANS, TOGETHER = 8, (4, 16)  # spans that are read at a time where there are few, and where there are more


def bi_wkv_triton(
    decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None = None, cu_seqlens: Tensor | None = None
) -> Tensor:
    """Bi-WKV by Triton kernels, in float32 for float32 and half types; arguments as `vrwkv.ops.bi_wkv`."""
    return _bi_wkv(decay, bonus, k, v, gate, cu_seqlens)[0]


def _most_spans(k: Tensor, cu_seqlens: Tensor | None) -> int:
    return most_spans(k.shape[0], k.shape[1], None if cu_seqlens is None else cu_seqlens.shape[0] - 1)


def _has_pairs(*tensors: Tensor) -> bool:
    """Whether two neighbouring channels lie in one word of 32 bits, in all tensors."""
    return all(x.element_size() == 2 and x.shape[-1] % 2 == 0 and x.data_ptr() % 4 == 0 for x in tensors)


def _runs_at_once(programs: int, device: torch.device) -> bool:
    """Whether so many programs that are started one after the other are certainly running together.

    A multiprocessor has room for two or more, so that even eight such launches at the same time, from streams of their
    own, leave one of them as many places as it needs.
    """
    if INTERPRETED or device.type != "cuda":
        return False
    return 4 * programs <= int(torch.cuda.get_device_properties(device).multi_processor_count)


@dataclass(frozen=True)
class _Launch:
    """Grid, sizes and options that the kernels of one pass share.

    Attributes:
        cut: how spans are worked on.
        width: channels of a lane.
        slots: spans of the whole batch, spare ones of packed images included.
        grid: programs.
        sizes: number of tokens (of the first image), of channels, and of spans of an image.
        options: constants of the kernels and of their launch.
        stages: (SENDS, RECEIVES) of each launch that it takes.
    """

    cut: Cut
    width: int
    slots: int
    grid: tuple[int]
    sizes: tuple[int, int, int]
    options: dict[str, Any]
    stages: tuple[tuple[bool, bool], ...]

    @classmethod
    def of(
        cls, k: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None, *, width: int, backward: bool = False
    ) -> "_Launch":
        batch, tokens, channels = k.shape
        found = cut(tokens, backward=backward)
        spans = -(-tokens // found.span)
        slots = batch * spans if cu_seqlens is None else tokens // found.span + cu_seqlens.shape[0] - 1
        lanes = found.channels // width
        blocks = -(-channels // (found.channels * NEIGHBOURS)) * NEIGHBOURS
        options: dict[str, Any] = {
            "CHUNKS": found.chunks,
            "LENGTH": found.length,
            "BLOCK": found.block,
            "LANES": lanes,
            "WIDTH": width,
            "NEIGHBOURS": NEIGHBOURS,
            "TOGETHER": TOGETHER[spans > FEW_SPANS],
            "GATED": gate is not None,
            "PACKED": cu_seqlens is not None,
        }
        if not INTERPRETED:
            options["num_warps"] = max(1, found.chunks * lanes // 32)
        registers = found.registers[width == 1]
        if PTX and registers is not None:
            options["maxnreg"] = registers
        stages: tuple[tuple[bool, bool], ...] = ((False, False),)
        if spans > 1:
            together = cu_seqlens is None and _runs_at_once(spans * NEIGHBOURS, k.device)
            stages = ((True, True),) if together else ((True, False), (False, True))
        return cls(found, width, slots, (slots * blocks,), (tokens, channels, spans), options, stages)

    def prepare(self, totals: Tensor) -> None:
        """Mark as unwritten what is read while it is being written."""
        if self.stages == ((True, True),):
            totals[: self.slots].fill_(UNWRITTEN_BITS)


def _steep_launch(
    k: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None, span: Cut, kinds: int
) -> tuple[tuple[int], Tensor, tuple[int, ...], dict[str, Any]]:
    """Grid, memory for states between blocks, sizes and options of the kernels for steep channels."""
    batch, tokens, channels = k.shape
    images = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    items = images * -(-channels // STEEP_LANES)
    programs, blocks = min(items, STEEP_PROGRAMS), -(-tokens // STEEP_BLOCK)
    borders = k.new_empty((programs, kinds, blocks, 4, STEEP_LANES), dtype=torch.float32)
    options: dict[str, Any] = {
        "ALL": triton.next_power_of_2(channels),
        "SPAN": span.span,
        "LENGTH": span.length,
        "BLOCK": STEEP_BLOCK,
        "LANES": STEEP_LANES,
        "GATED": gate is not None,
        "PACKED": cu_seqlens is not None,
    }
    if not INTERPRETED:
        options["num_warps"] = max(1, STEEP_LANES // 32)
    return (programs,), borders, (items, tokens, channels, blocks), options


def _tables(k: Tensor, cu_seqlens: Tensor | None, span: int) -> tuple[Tensor, Tensor]:
    return (k, k) if cu_seqlens is None else cut_packed(cu_seqlens, k.shape[1], span)


def _empty_totals(k: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    return k.new_empty((_most_spans(k, cu_seqlens), 5, k.shape[2]), dtype=torch.int32)


def _to_be_written(like: Tensor) -> Tensor:
    """Memory for a result; the caller casts it to its dtype, since the interpreter truncates instead of rounding."""
    return like.new_empty(like.shape, dtype=torch.float32 if INTERPRETED else like.dtype)


def _fake_forward(
    decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), _empty_totals(k, cu_seqlens)


@triton_operator("vrwkv::bi_wkv_triton", _fake_forward, opaque=True)
def _bi_wkv(
    decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The output, and what spans hand to each other, from which the backward starts."""
    decay, bonus, k, v = decay.contiguous(), bonus.contiguous(), k.contiguous(), v.contiguous()
    opened = v if gate is None else gate.contiguous()
    y, totals = _to_be_written(v), _empty_totals(k, cu_seqlens)
    launch = _Launch.of(k, gate, cu_seqlens, width=2 if _has_pairs(k, v, opened) else 1)
    table, images = _tables(k, cu_seqlens, launch.cut.span)
    launch.prepare(totals)
    for sends, receives in launch.stages:
        outputs_kernel[launch.grid](
            k, v, opened, y, decay, bonus, table, totals,
            *launch.sizes, **launch.options, SENDS=sends, RECEIVES=receives,
        )  # fmt: skip
    grid, borders, sizes, options = _steep_launch(k, gate, cu_seqlens, launch.cut, 1)
    steep_outputs_kernel[grid](k, v, opened, y, borders, decay, bonus, images, *sizes, **options, WIDTH=launch.width)
    return y.to(v.dtype), totals


def _fake_backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None,
    totals: Tensor,
) -> list[Tensor]:  # fmt: skip
    inputs = (decay, bonus, k, v) if gate is None else (decay, bonus, k, v, gate)
    return [tensor.new_empty(tensor.shape) for tensor in inputs]


@triton_operator("vrwkv::bi_wkv_triton_backward", _fake_backward, opaque=True)
def _bi_wkv_backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, cu_seqlens: Tensor | None,
    totals: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Gradients in decay, bonus, k, v and, if there is one, gate."""
    decays, bonuses, k, v, grad = (tensor.contiguous() for tensor in (decay, bonus, k, v, grad))
    opened = v if gate is None else gate.contiguous()
    grad_k, grad_v = _to_be_written(k), _to_be_written(v)
    grad_gate = grad_v if gate is None else _to_be_written(v)
    launch = _Launch.of(k, gate, cu_seqlens, width=1, backward=True)
    table, images = _tables(k, cu_seqlens, launch.cut.span)
    adjoint_totals = torch.empty_like(totals)
    launch.prepare(adjoint_totals)
    grid, borders, sizes, options = _steep_launch(k, gate, cu_seqlens, launch.cut, 3)
    number_of_images = k.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    partials = k.new_zeros((launch.slots + number_of_images, 2, k.shape[2]), dtype=torch.float32)
    for sends, receives in launch.stages:
        gradients_kernel[launch.grid](
            grad, k, v, opened, grad_k, grad_v, grad_gate, decays, bonuses, table, totals, adjoint_totals, partials,
            *launch.sizes, **launch.options, SENDS=sends, RECEIVES=receives,
        )  # fmt: skip
    steep_gradients_kernel[grid](
        grad, k, v, opened, grad_k, grad_v, grad_gate, borders, partials[launch.slots :], decays, bonuses, images,
        *sizes, **options,
    )  # fmt: skip
    grad_decay, grad_bonus = partials.sum(0).unbind(0)
    gradients = [grad_decay.to(decay.dtype, copy=True), grad_bonus.to(bonus.dtype, copy=True)]
    gradients += [grad_k.to(k.dtype), grad_v.to(v.dtype)]
    return [*gradients, grad_gate.to(v.dtype)] if gate is not None else gradients


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    saved = ctx.saved_tensors  # once: checkpointing computes them anew at each access
    gate = saved[4]
    gradients = _bi_wkv_backward(grad, *saved)
    return (*gradients, *([None] if gate is None else []), None)


_bi_wkv.register_autograd(_differentiate, setup_context=_save_for_backward)
