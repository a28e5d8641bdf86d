"""Checks on the arguments of shift_mix and bi_shift_mix; each failure is a ValueError that names the argument."""

import torch
from torch import Tensor

from vrwkv.ops.argument_checks import check_floating, check_same_dtype, check_shape
from vrwkv.ops.token_shift import q_shift


def check_mix(
    x: Tensor,
    share: Tensor,
    correction: Tensor | None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm_eps: float = 1e-5,
) -> None:
    """What is mixed, and with which weights."""
    check_floating(x=x)
    check_shape("x", x, (None, None, None), "(B, T, C)")
    channels = x.shape[2]
    check_floating(x=x, share=share)
    check_shape("share", share, (None, channels), "(M, C)")
    _check_parameter_dtype("share", share, x)
    if correction is not None:
        check_floating(x=x, correction=correction)
        check_shape("correction", correction, (share.shape[0], *x.shape), "(M, B, T, C)")
        check_same_dtype(x=x, correction=correction)
    for name, parameter, other in (("norm_weight", norm_weight, norm_bias), ("norm_bias", norm_bias, norm_weight)):
        if parameter is None:
            if other is not None:
                raise ValueError(f"{name} is missing: the norm needs norm_weight and norm_bias")
            continue
        check_floating(**{"x": x, name: parameter})
        check_shape(name, parameter, (channels,), "(C,)")
        _check_parameter_dtype(name, parameter, x)
    if not norm_eps > 0:
        raise ValueError(f"norm_eps must be above 0, not {norm_eps}")


def check_shift(x: Tensor, grid: tuple[int, int], num_heads: int, shift: int, gamma: float) -> None:
    """The arguments of q_shift on the tokens that lie on the grid, checked by q_shift: with shift 0 it does no more."""
    patches = x
    if isinstance(grid, (tuple, list)) and len(grid) == 2 and min(grid) >= 1:
        patches = x[:, : grid[0] * grid[1]]
    q_shift(patches, grid, num_heads=num_heads, shift=min(shift, 0), gamma=gamma)


def check_sequence_shift(x: Tensor, num_heads: int) -> None:
    """The heads of bi_shift: they must divide into halves."""
    if num_heads < 1 or x.shape[2] % (2 * num_heads):
        raise ValueError(f"x has {x.shape[2]} channels, which num_heads={num_heads} heads of even size cannot share")


def _check_parameter_dtype(name: str, parameter: Tensor, x: Tensor) -> None:
    if parameter.dtype not in (torch.float32, x.dtype):
        raise ValueError(f"{name} must be float32 or the dtype of x, {x.dtype}, not {parameter.dtype}")
