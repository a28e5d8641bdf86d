"""Multi-scale deformable attention: the maths is in README.md, the definition in naive.py."""

from collections.abc import Sequence

from torch import Tensor

from vrwkv.ops.deform_attn.arguments import check_deform_attn
from vrwkv.ops.deform_attn.naive import deform_attn_naive
from vrwkv.ops.deform_attn.portable import deform_attn_torch
from vrwkv.ops.dispatch import Backend, register_backends, select_backend

__all__ = ["deform_attn"]

register_backends(
    "deform_attn",
    Backend("torch", deform_attn_torch),
    Backend("naive", deform_attn_naive, automatic=False),
)


def deform_attn(
    values: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Each query's heads read feature maps of several sizes at a few places of their own, and add up what they find.

    Deformable DETR (arXiv 2010.04159), Eq. 3, between its projections:
    y_q = Σ_level Σ_point weight · map_level(location), bilinear between the centres of cells, zero outside.

    Args:
        values: (B, ΣHW, heads, head_dim) maps of all levels, one after the other, each in raster order.
        shapes: (height, width) of each level.
        locations: (B, Q, heads, levels, points, 2) places as (x, y), from 0 at the left or upper edge of the level to 1
            at the other. float32 or the dtype of `values`; better float32, because half types cannot tell neighbouring
            pixels apart.
        weights: (B, Q, heads, levels, points), float32 or the dtype of `values`. Nothing normalises them here.
        backend: "torch" or "naive"; by default VRWKV_BACKEND, else the best that can run.

    Returns:
        (B, Q, heads · head_dim), dtype of `values`. The arithmetic is float32, or float64 for float64.

    Raises:
        ValueError: a wrong shape, dtype or device (the message names the argument), or a backend that cannot run.
    """
    check_deform_attn(values, shapes, locations, weights)
    return select_backend("deform_attn", backend, values).run(values, shapes, locations, weights)
