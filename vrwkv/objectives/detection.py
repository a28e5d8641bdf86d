"""Detection: the sum of the losses that torchvision's detectors give."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

TARGETS = ("boxes", "labels", "masks")


class DetectionObjective:
    """The loss of a detector over batches of lists: "image", "boxes", "labels" and, for Mask R-CNN, "masks".

    The global generators decide which regions are looked at, so in the training loop they are a function of seed, step
    and process.
    """

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the losses; metrics: each of them, by torchvision's names."""
        names = [name for name in TARGETS if name in batch]
        targets = [
            dict(zip(names, values, strict=True)) for values in zip(*(batch[name] for name in names), strict=True)
        ]
        losses = model(batch["image"], targets)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        return total, {name: loss.detach() for name, loss in losses.items()}

    def after_step(self, model: nn.Module) -> None:
        """Nothing to adjust."""
