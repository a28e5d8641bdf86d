"""The spatial mix of a VRWKV6 block in eager inference on the CPU, as `eager_block` runs it."""

import torch
from torch import Tensor

from vrwkv.layers.plain_block import PlainSpatial6
from vrwkv.ops.bi_wkv6.cpu import write_outputs
from vrwkv.ops.cpu_runtime.kernel import STORAGE
from vrwkv.ops.cpu_runtime.memory import empty_result
from vrwkv.ops.elementwise.cpu_loops import BLOCK, tanh_forward
from vrwkv.ops.head_norm_gate.cpu import write_gated
from vrwkv.ops.shift_mix.cpu_inference import mix_corrected, mix_first_into
from vrwkv.ops.shift_mix.settings import Norm

_float32 = STORAGE[torch.float32]


def spatial_mix6(parts: PlainSpatial6, norm: Norm, x: Tensor, grid: tuple[int, int], out: Tensor) -> Tensor:
    """As `SpatialMix6.forward` after the norm; see `plain_block` for what must hold.

    Args:
        parts: parameters and settings.
        norm: the norm before it.
        x: (B, T, C) float32, contiguous; stays as it is.
        grid: (height, width).
        out: (B · T, C), takes the result.

    Returns:
        (5, B · T, C) memory that is free now.
    """
    batch, image_tokens = x.shape[:2]
    mixtures = empty_result((5, *out.shape), torch.float32)
    x_w, x_k, x_v, x_r, x_g = mixtures.unbind()
    statistics = mix_first_into(out[None], x, parts.first_share, norm, image_tokens, grid, parts.shift)
    low_rank = _tanh_of_product(out, parts.mix_down).unflatten(1, parts.mix_up.shape[:2])
    # The corrections go where the mixtures will be, which spares the caches five matrices.
    torch.bmm(low_rank.transpose(0, 1), parts.mix_up, out=mixtures)
    mix_corrected(mixtures, x, torch.cat(parts.shares), statistics, norm, image_tokens, grid, parts.shift)
    w = torch.addmm(parts.decay, _tanh_of_product(x_w, parts.decay_down), parts.decay_up, out=x_w)
    r = torch.mm(x_r, parts.receptance.t(), out=out)
    k = torch.mm(x_k, parts.key.t(), out=x_r)
    v = torch.mm(x_v, parts.value.t(), out=x_k)
    gate = torch.mm(x_g, parts.gate.t(), out=x_v)
    heads = (batch, image_tokens, *parts.bonus.shape)
    write_outputs(r.view(heads), k.view(heads), v.view(heads), w.view(heads), parts.bonus, x_g.view(heads))
    weight, bias, eps = parts.head_norm
    write_gated(x_g, gate, weight, bias, len(parts.bonus), eps, x_g)
    torch.mm(x_g, parts.output.t(), out=out)
    return mixtures


def _tanh_of_product(x: Tensor, matrix: Tensor) -> Tensor:
    product = empty_result((len(x), matrix.shape[1]), torch.float32)
    torch.mm(x, matrix, out=product)
    elements = product.numel()
    tanh_forward(-(-elements // BLOCK), product, product, elements, _float32, elements=elements)
    return product
