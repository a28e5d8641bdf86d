"""Arithmetic of a training step: float32, or autocast to a half precision, with loss scaling for fp16."""

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vrwkv.errors import InputError


class Precision:
    """How the forward pass computes and how a loss becomes an update.

    Args:
        name: `fp32`, `bf16` (autocast) or `fp16` (autocast with dynamic loss scaling).
        device: where the model computes.

    Raises:
        InputError: the device cannot compute in this precision.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        dtypes = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
        if name not in dtypes:
            raise InputError(f"unknown precision '{name}' (train.precision): use {', '.join(dtypes)}")
        if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise InputError(f"train.precision bf16 is not supported by {torch.cuda.get_device_name(device)}: use fp16")
        if name == "fp16" and device.type not in ("cpu", "cuda"):
            raise InputError(f"train.precision fp16 is not supported on {device.type}: use fp32 or bf16")
        self.device = device
        self.dtype: torch.dtype | None = dtypes[name]
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Context for the forward pass and the loss."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, scaled under fp16."""
        (self.scaler.scale(loss) if self.scaler is not None else loss).backward()

    def clip_gradients(
        self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float | None
    ) -> Tensor:
        """Undo the loss scaling, limit the gradients' total norm, and return the norm before that (0-dim)."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        return torch.nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the parameters; under fp16 only if every gradient is finite, and adapt the loss scale."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()
