"""Checks on the arguments of deform_attn; each failure is a ValueError that names the argument."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vrwkv.ops.argument_checks import check_floating, check_shape


def check_deform_attn(values: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> None:
    """What is read, where, and with which weights."""
    check_floating(values=values)
    check_shape("values", values, (None, None, None, None), "(B, ΣHW, heads, head_dim)")
    check_level_shapes(shapes, values.shape[1])
    check_floating(values=values, locations=locations, weights=weights)
    batch, _, heads, _ = values.shape
    check_shape("locations", locations, (batch, None, heads, len(shapes), None, 2), "(B, Q, heads, levels, points, 2)")
    check_shape("weights", weights, tuple(locations.shape[:5]), "(B, Q, heads, levels, points)")
    for name, tensor in (("locations", locations), ("weights", weights)):
        if tensor.dtype not in (torch.float32, values.dtype):
            raise ValueError(f"{name} must be float32 or the dtype of values, {values.dtype}, not {tensor.dtype}")


def check_level_shapes(shapes: Sequence[tuple[int, int]], tokens: int) -> None:
    """`shapes` must be the (height, width) of one level or more, which together have as many cells as `tokens`."""
    if not isinstance(shapes, (tuple, list)):
        raise ValueError(f"shapes must be a list of (height, width), not {type(shapes).__name__}")
    if len(shapes) == 0 or not all(_is_shape(shape) for shape in shapes):
        raise ValueError(f"shapes must be a list of one (height, width) or more, in cells, not {shapes!r}")
    cells = sum(height * width for height, width in shapes)
    if tokens != cells:
        raise ValueError(f"values has {tokens} tokens, but the levels of shapes {list(shapes)} have {cells}")


def _is_shape(shape: object) -> bool:
    """Whether `shape` is a pair of whole numbers of at least 1; exporters count in symbols."""
    return (
        isinstance(shape, (tuple, list))
        and len(shape) == 2
        and all(isinstance(size, (int, torch.SymInt)) and size >= 1 for size in shape)
    )
