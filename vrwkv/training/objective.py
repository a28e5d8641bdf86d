"""What the loop needs to know of a training objective."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn


class Objective(Protocol):
    """A loss over a batch, and what the model needs after an update."""

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of this process's slice of a batch (mean over its samples) and further metrics to log.

        Args:
            model: possibly wrapped by DDP, so it must be called (`model(...)`), once, and not asked for its methods.
            batch: tensors on the model's device, first dimension the samples.

        Returns:
            The loss (0-dim, differentiable) and named 0-dim metrics, the same names at every step and on every process.
        """

    def after_step(self, model: nn.Module) -> None:
        """Adjust the unwrapped model after an update, such as clamping a temperature. Runs without gradients."""
