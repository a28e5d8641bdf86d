"""Batches on their way to where the model computes."""

from typing import Any

import torch
from torch import Tensor


def to_device(value: Any, device: torch.device | str) -> Any:
    """A tensor, or the tensors of a list, moved to `device`; anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, list):
        return [to_device(item, device) for item in value]
    return value
