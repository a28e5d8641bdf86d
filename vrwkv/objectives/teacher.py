"""The teacher that a configuration names."""

from typing import Any

import timm
import torch

from vrwkv.data.augmentation import ImageFormat
from vrwkv.errors import InputError
from vrwkv.objectives.classifier import Classifier, check_class_names, image_format, load_classifier
from vrwkv.objectives.classifier_config import DistillationConfig
from vrwkv.objectives.distillation import Distillation


def create_distillation(
    config: DistillationConfig | None, student: Classifier, device: torch.device | str = "cpu"
) -> Distillation | None:
    """The teacher's part of the loss on `device`; None without a configuration.

    Raises:
        InputError: weights that cannot be had or do not fit, or a teacher with other classes than the student.
    """
    if config is None:
        return None
    teacher, expected = _load_teacher(config, student, device)
    if teacher.num_classes != student.num_classes:
        raise InputError(
            f"distillation.teacher {config.teacher} knows {teacher.num_classes} classes, the student "
            f"{student.num_classes}"
        )
    size = config.image_size or student.image.size
    if hasattr(teacher, "set_input_size") and not getattr(teacher, "dynamic_img_size", False):
        teacher.set_input_size(img_size=(size, size))
    expected = ImageFormat(size, expected.mean, expected.std, expected.interpolation, expected.crop_pct)
    return Distillation(teacher.to(device), student.image, expected, config.kind, config.alpha, config.temperature)


def _load_teacher(
    config: DistillationConfig, student: Classifier, device: torch.device | str
) -> tuple[Any, ImageFormat]:
    if config.checkpoint:
        loaded = load_classifier(config.checkpoint, device, default_architecture=config.teacher)
        check_class_names(student, loaded.class_names or [], f"the teacher {config.checkpoint}")
        return loaded.model, loaded.image
    try:
        model = timm.create_model(config.teacher, pretrained=True)
    except Exception as error:  # the hub's client has many ways to say that it cannot be reached
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"the weights of distillation.teacher {config.teacher} cannot be had ({reason}): "
            "give a file with distillation.checkpoint"
        ) from error
    return model, image_format(model, None)
