"""The ops of `vrwkv.ops` in the form that the layers call: with a second body for TorchScript.

TorchScript compiles neither argument checks nor the choice of a backend. What it finds here are the portable operators,
which scripted models keep by name, so that saved ones load after `import vrwkv`, and plain torch for the rest;
`backend` has no meaning there. Everybody else gets the ops themselves.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

import vrwkv.ops as ops
from vrwkv.layers.packing import Grid, PackedGrids


def bi_wkv(
    decay: Tensor,
    bonus: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """As `vrwkv.ops.bi_wkv`."""
    if torch.jit.is_scripting():
        return torch.ops.vrwkv.bi_wkv(decay, bonus, k, v, gate, cu_seqlens)
    return ops.bi_wkv(decay, bonus, k, v, gate=gate, cu_seqlens=cu_seqlens, backend=backend)


@torch.jit.ignore
def bi_wkv_published(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """As `vrwkv.ops.bi_wkv_published`; no operator, so scripted models that use it run but cannot be saved."""
    if cu_seqlens is None:
        return ops.bi_wkv_published(decay, bonus, k, v)
    lengths = cu_seqlens.diff().tolist()
    images = zip(k.split(lengths, 1), v.split(lengths, 1), strict=True)
    return torch.cat([ops.bi_wkv_published(decay, bonus, *image) for image in images], dim=1)


def bi_wkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """As `vrwkv.ops.bi_wkv6`."""
    if torch.jit.is_scripting():
        return torch.ops.vrwkv.bi_wkv6(r, k, v, w, u, cu_seqlens)
    return ops.bi_wkv6(r, k, v, w, u, cu_seqlens=cu_seqlens, backend=backend)


def shift_mix(
    x: Tensor,
    share: Tensor,
    grid: Grid,
    correction: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm_eps: float = 1e-5,
    num_heads: int = 1,
    shift: int = 1,
    gamma: float = 0.25,
    backend: str | None = None,
) -> list[Tensor]:
    """As `vrwkv.ops.shift_mix`, and image by image where they are packed."""
    if torch.jit.is_scripting():
        head_dim = x.shape[2] // num_heads
        bounds = [int(head_dim * gamma * group) if shift > 0 else 0 for group in range(1, 5)]
        bounds.append(head_dim)
        return torch.ops.vrwkv.shift_mix(
            x,
            share,
            correction,
            norm_weight,
            norm_bias,
            norm_eps,
            [grid[0], grid[1]],  # type: ignore[index]
            shift,
            bounds,
        )[0].unbind(0)
    if isinstance(grid, PackedGrids):
        settings = (norm_weight, norm_bias, norm_eps, num_heads, shift, gamma, backend)
        parts = [None] * len(grid.grids) if correction is None else grid.split(correction, dim=2)
        images = [
            shift_mix(image, share, own_grid, part, *settings)
            for image, own_grid, part in zip(grid.split(x), grid.grids, parts, strict=True)
        ]
        return [torch.cat(mixture, dim=1) for mixture in zip(*images, strict=True)]
    mixtures = ops.shift_mix(
        x,
        share,
        grid,
        correction=correction,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        norm_eps=norm_eps,
        num_heads=num_heads,
        shift=shift,
        gamma=gamma,
        backend=backend,
    )
    return list(mixtures)


def sigmoid_gate(gate: Tensor, y: Tensor, backend: str | None = None) -> Tensor:
    """As `vrwkv.ops.sigmoid_gate`."""
    if torch.jit.is_scripting():
        return torch.sigmoid(gate) * y
    return ops.sigmoid_gate(gate, y, backend=backend)


def squared_relu(x: Tensor, backend: str | None = None, inplace: bool = True) -> Tensor:
    """As `vrwkv.ops.squared_relu`."""
    if torch.jit.is_scripting():
        return torch.relu(x).square()
    return ops.squared_relu(x, inplace=inplace, backend=backend)


def tanh(x: Tensor, backend: str | None = None) -> Tensor:
    """As `vrwkv.ops.tanh`, in the memory of `x` where no gradient is recorded."""
    if torch.jit.is_scripting():
        return torch.tanh(x)
    return ops.tanh(x, inplace=True, backend=backend)


def head_norm_gate(
    y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, num_heads: int, eps: float, backend: str | None = None
) -> Tensor:
    """As `vrwkv.ops.head_norm_gate`."""
    if torch.jit.is_scripting():
        heads = y.unflatten(-1, (num_heads, y.shape[-1] // num_heads))
        plain = F.layer_norm(heads, heads.shape[-1:], None, None, eps).flatten(-2)
        return (torch.addcmul(bias, plain, weight) * F.silu(gate)).to(y.dtype)
    return ops.head_norm_gate(y, gate, weight, bias, num_heads=num_heads, eps=eps, backend=backend)


def extract_patches(images: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """As `vrwkv.ops.extract_patches`."""
    if torch.jit.is_scripting():
        height, width = images.shape[2] // patch_size[0], images.shape[3] // patch_size[1]
        patches = images.unflatten(3, (width, patch_size[1])).unflatten(2, (height, patch_size[0]))
        return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    return ops.extract_patches(images, patch_size)
