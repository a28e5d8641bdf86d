"""Supervised classification: timm's losses, Mixup and CutMix, and what a frozen teacher says."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.data import Mixup
from timm.data.naflex_mixup import NaFlexMixup
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.objectives.classifier_config import LossConfig
from vrwkv.objectives.distillation import Distillation


class ClassificationObjective:
    """The loss of a classifier over batches with "image" (B, 3, H, W), or a list of B images, and "label" (B,).

    The global generators decide how images are mixed, so in the training loop the mix is a function of seed, step and
    process. Each process mixes its own slice of a batch.

    Args:
        config: loss, label smoothing and mixing.
        num_classes: number of classes C.
        distillation: a teacher's part of the loss, None for none.
        local_batch_size: images of a batch on this process, if known, to refuse early what cannot be mixed.
        own_sizes: images come as lists, each of its own size; they are mixed where they overlap, as timm's NaFlex does.

    Raises:
        InputError: mixing with an odd number of images, or in a mode that images of different sizes have not.
    """

    def __init__(
        self,
        config: LossConfig,
        num_classes: int,
        distillation: Distillation | None = None,
        local_batch_size: int | None = None,
        own_sizes: bool = False,
    ) -> None:
        self.num_classes = num_classes
        self.distillation = distillation
        self.mixup: Mixup | NaFlexMixup | None = None
        if config.mixes:
            self.mixup = _mixup_of_own_sizes(config, num_classes) if own_sizes else _mixup(config, num_classes)
        if isinstance(self.mixup, Mixup) and local_batch_size is not None and local_batch_size % 2:
            raise InputError(
                f"Mixup and CutMix pair the images of a process, and data.batch_size leaves each {local_batch_size} of "
                "them: make that number even"
            )
        self.criterion = _criterion(config, self.mixup is not None)

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch; metrics: `train_top1` where images are not mixed, both parts where there is a teacher."""
        images, labels = batch["image"], batch["label"]
        targets = labels
        if isinstance(self.mixup, Mixup):
            images, targets = self.mixup(images.clone(), labels)  # it writes into the images it is given
        elif self.mixup is not None:
            images, mixed = self.mixup(images, labels)
            targets = torch.stack(list(mixed))
        logits = model(images)
        with torch.autocast(logits.device.type, enabled=False):
            loss = self.criterion(logits.float(), targets)
        metrics = {}
        if self.mixup is None:
            metrics["train_top1"] = (logits.detach().argmax(dim=1) == labels).float().mean()
        if self.distillation is not None:
            taught = self.distillation.loss(logits, images)
            metrics["label_loss"], metrics["teacher_loss"] = loss.detach(), taught.detach()
            loss = (1 - self.distillation.alpha) * loss + self.distillation.alpha * taught
        return loss, metrics

    def after_step(self, model: nn.Module) -> None:
        """Nothing to adjust."""


def _mixup(config: LossConfig, num_classes: int) -> Mixup:
    return Mixup(
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        prob=config.mix_probability,
        switch_prob=config.mix_switch_probability,
        mode=config.mix_mode,
        label_smoothing=config.label_smoothing,
        num_classes=num_classes,
    )


def _mixup_of_own_sizes(config: LossConfig, num_classes: int) -> NaFlexMixup:
    if config.mix_mode != "batch":
        raise InputError(
            f"loss.mix_mode must be batch where images keep their sizes (model.max_tokens), not {config.mix_mode}"
        )
    return NaFlexMixup(
        num_classes=num_classes,
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        prob=config.mix_probability,
        switch_prob=config.mix_switch_probability,
        label_smoothing=config.label_smoothing,
    )


def _criterion(config: LossConfig, mixed: bool) -> nn.Module:
    """Mixed targets are soft and smoothed already; labels are smoothed by the loss."""
    if config.name == "bce":
        return BinaryCrossEntropy(
            smoothing=0.0 if mixed else config.label_smoothing,
            target_threshold=config.bce_target_threshold,
            sum_classes=config.bce_sum_classes,
        )
    if mixed:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(config.label_smoothing) if config.label_smoothing else nn.CrossEntropyLoss()
