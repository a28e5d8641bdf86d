"""A block of Vision-RWKV in eager inference on the CPU, in a tenth of the calls that its modules make.

Between two matrix products, Python and torch's calls find the caches full of matrices, and take two to three times as
long as in a loop of their own. What is computed is in `SpatialMix.forward`, `ChannelMix.forward` and `Block.forward`;
here, products are written where memory is free, and residuals are added by loops that read the sum anyway. The spatial
mix of VRWKV6 is in `eager_spatial6`.
"""

import torch
from torch import Tensor

from vrwkv.layers import large_inputs
from vrwkv.layers.eager_spatial6 import spatial_mix6
from vrwkv.layers.plain_block import PlainBlock, PlainSpatial, PlainSpatial6
from vrwkv.ops.bi_wkv.cpu import write_means
from vrwkv.ops.bi_wkv.cpu_plan import make_plan
from vrwkv.ops.bi_wkv.portable import portable_forward
from vrwkv.ops.cpu_runtime.kernel import STORAGE
from vrwkv.ops.cpu_runtime.memory import empty_result
from vrwkv.ops.elementwise.cpu_loops import BLOCK, gate_forward, relu_forward
from vrwkv.ops.shift_mix.cpu_inference import mix_into
from vrwkv.ops.shift_mix.settings import Norm

_float32 = STORAGE[torch.float32]


def run_block(parts: PlainBlock, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """As the block's own `forward`; see `plain_block` for what must hold.

    Args:
        parts: parameters and settings of the block.
        x: (B, T, C) float32, contiguous; stays as it is.
        grid: (height, width).
    """
    batch, image_tokens, channels = x.shape
    total = batch * image_tokens
    result = empty_result((batch, image_tokens, channels), torch.float32)
    out = result.view(total, channels)
    if isinstance(parts.spatial, PlainSpatial6):
        spare = spatial_mix6(parts.spatial, parts.norm1, x, grid, out)
    else:
        spare = _spatial_mix(parts.spatial, parts.norm1, x, grid, out)
    # `out` becomes the residual stream.
    mix_into(spare[:2], x, out, parts.channel_shares, parts.norm2, image_tokens, grid, parts.channel_shift)
    x_k, x_r, free = spare[:3].unbind()
    value = _hidden_layer(x_k, parts.channel_key, parts.channel_value)
    gate = torch.mm(x_r, parts.channel_receptance.t(), out=free)
    elements = total * channels
    gate_forward(-(-elements // BLOCK), gate, value, out, elements, _float32, out, elements=elements)
    return result


def _spatial_mix(parts: PlainSpatial, norm: Norm, x: Tensor, grid: tuple[int, int], out: Tensor) -> Tensor:
    """The spatial mix of x (B, T, C) after the norm, into `out` (N, C); returns free memory, at least (3, N, C)."""
    mixtures = empty_result((3, *out.shape), torch.float32)
    x_k, x_v, x_r = mixtures.unbind()
    mix_into(mixtures, x, None, parts.shares, norm, x.shape[1], grid, parts.shift)
    k = torch.mm(x_k, parts.key.t(), out=out)
    v = torch.mm(x_v, parts.value.t(), out=x_k)
    gate = torch.mm(x_r, parts.receptance.t(), out=x_v)
    y = _bi_wkv(parts.decay, parts.bonus, k, v, gate, x_r, len(x))
    torch.mm(y, parts.output.t(), out=out)
    return mixtures


def _hidden_layer(x: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """relu(x key)² value in the memory of `x` (N, C), so many rows at a time that the hidden layer is not large."""
    total, width = len(x), len(key)
    row_bytes = width * x.element_size()
    rows = total if total * row_bytes <= large_inputs.LARGEST else max(1, large_inputs.AT_ONCE // row_bytes)
    hidden = empty_result((min(rows, total), width), torch.float32)
    for part in x.split(rows):
        own = hidden[: len(part)]
        elements = own.numel()
        torch.mm(part, key.t(), out=own)
        relu_forward(-(-elements // BLOCK), own, own, elements, _float32, elements=elements)
        torch.mm(own, value.t(), out=part)
    return x


def _bi_wkv(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, gate: Tensor, y: Tensor, batch: int) -> Tensor:
    """Gated Bi-WKV of (N, C), into `y` where the compiled loops are accurate."""
    tokens = len(k) // batch
    plan = make_plan(decay, bonus, (tokens,) * batch)
    if plan is None:
        k, v, gate = (tensor.unflatten(0, (batch, tokens)) for tensor in (k, v, gate))
        return portable_forward(decay, bonus, k, v, gate, None).flatten(0, 1)
    write_means(plan, decay, bonus, k, v, gate, y, _float32)
    return y
