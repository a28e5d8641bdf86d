"""Contrastive training: open_clip's losses over the whole global batch, with a temperature that stays in bounds."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor, nn

from vrwkv.errors import InputError

LARGEST_LOGIT_SCALE = math.log(100)


class ContrastiveObjective:
    """Pull each image towards its own caption and away from the others of the global batch.

    "clip" is the symmetric cross-entropy of CLIP; features are gathered with their gradients, so that several processes
    have exactly the gradient of one process with the same global batch. "siglip" is SigLIP's sigmoid loss and needs a
    model with a bias (`model.init_bias`).

    Args:
        loss: "clip" or "siglip".
        rank, world_size: this process and the number of processes that share a batch.

    Raises:
        InputError: an unknown loss.
    """

    def __init__(self, loss: str = "clip", rank: int = 0, world_size: int = 1) -> None:
        if loss not in ("clip", "siglip"):
            raise InputError(f"loss must be clip or siglip, not {loss!r}")
        self.loss_name = loss
        self.rank, self.world_size = rank, world_size
        if loss == "clip":
            self.criterion: ClipLoss | SigLipLoss = ClipLoss(gather_with_grad=True, rank=rank, world_size=world_size)
        else:
            self.criterion = SigLipLoss(rank=rank, world_size=world_size)

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch with "image" (B, 3, H, W) and "text" (B, T), and the temperature's inverse."""
        features = model(batch["image"], batch["text"])
        image, text, scale = features["image_features"], features["text_features"], features["logit_scale"]
        bias = features.get("logit_bias")
        if self.loss_name == "siglip" and bias is None:
            raise InputError("loss siglip needs a bias: set model.init_bias, for example to -10")
        with torch.autocast(image.device.type, enabled=False):
            loss = self.criterion(image.float(), text.float(), scale.float(), bias)
        return loss, {"logit_scale": scale.detach()}

    def after_step(self, model: nn.Module) -> None:
        """Keep the logarithm of the scale within [0, ln 100], as CLIP and RWKV-CLIP do."""
        scale = model.get_parameter("logit_scale")
        scale.data.clamp_(0, LARGEST_LOGIT_SCALE)
