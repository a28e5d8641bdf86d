"""Accuracy at other image sizes than the one a classifier was trained at."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from timm.layers import to_2tuple
from torch import Tensor

from vrwkv.errors import InputError
from vrwkv.evaluate.classify import ClassificationResult, classify


def classify_at_resolutions(
    model: Any,
    batches_at: Callable[[int], Iterable[Mapping[str, Tensor]]],
    sizes: Sequence[int],
    device: torch.device | str = "cpu",
) -> dict[int, ClassificationResult]:
    """Classify the same images at several sizes.

    Models with `dynamic_img_size` and convolutional networks take any size as they are; others are copied and their
    positions resampled (`set_input_size`).

    Args:
        model: on `device` already.
        batches_at: size in pixels -> batches as for `classify`.
        sizes: the sizes.
        device: where images are moved to.

    Returns:
        Size -> result, in ascending order.

    Raises:
        InputError: no sizes, or one that the model cannot take.
    """
    if not sizes:
        raise InputError("no resolutions to measure at")
    check_resolutions(model, sizes, "resolutions")
    results = {}
    for size in sorted(set(sizes)):
        try:
            results[size] = classify(model_at(model, size), batches_at(size), device)
        except InputError:
            raise
        except (AssertionError, ValueError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{type(model).__name__} cannot classify images of {size} pixels: {reason}") from error
    return results


def check_resolutions(model: Any, sizes: Sequence[int], option: str) -> None:
    """Refuse sizes below one patch, before anything is computed.

    Args:
        model: of those that cut images into patches; others are taken to accept what is positive.
        sizes: in pixels.
        option: where the sizes stand, for the error.

    Raises:
        InputError: a size that is too small.
    """
    least = max(to_2tuple(getattr(getattr(model, "patch_embed", None), "patch_size", 1)))
    for size in sizes:
        if size < least:
            needed = "must be positive" if least == 1 else f"must be at least a patch of the model, {least} pixels"
            raise InputError(f"{option} {needed}, got {size}")


def model_at(model: Any, size: int) -> Any:
    """The model, or a copy of it, that takes square images of `size` pixels."""
    if getattr(model, "dynamic_img_size", False) or not hasattr(model, "set_input_size"):
        return model
    resized = copy.deepcopy(model)
    resized.set_input_size(img_size=(size, size))
    return resized
