"""Which model a picture is drawn of: the one that is named, or the one that a run's weights say they belong to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrwkv.errors import InputError
from vrwkv.objectives.classifier import stored_description
from vrwkv.objectives.starting_weights import weights_file

IMAGE_TEXT_KEY = "rwkv_clip_model"
"""Under which an image-text run keeps its configuration in open_clip's format."""
USUAL_SIZE = 224


@dataclass(frozen=True)
class DrawnModel:
    """A model by name.

    Attributes:
        name: as `timm.create_model` takes it.
        options: further arguments of the model.
        image_size: pixels on each side of its images.
    """

    name: str
    options: dict[str, Any]
    image_size: int


def drawn_model(name: str | None, checkpoint: str | None, options: Mapping[str, Any]) -> DrawnModel:
    """The model to build; a run's own arguments come first, `options` have the last word.

    Args:
        name: of the model, or None for the checkpoint's own.
        checkpoint: a run folder or a file of weights, or None.
        options: arguments of the model.

    Raises:
        InputError: no name, and a checkpoint that does not say its own or none at all; a checkpoint of another model.
    """
    stored = None if checkpoint is None else _stored_model(weights_file(checkpoint))
    if stored is None:
        if name is None:
            reason = "" if checkpoint is None else f"{checkpoint} does not say what it holds: "
            raise InputError(f"{reason}name the model, for example --model vrwkv_tiny_patch16_224")
        return DrawnModel(name, dict(options), USUAL_SIZE)
    if name is not None and name.partition(".")[0] != stored.name.partition(".")[0]:
        raise InputError(f"{checkpoint} holds {stored.name}, not --model {name}; --model can be left out")
    return DrawnModel(stored.name, {**stored.options, **options}, stored.image_size)


def _stored_model(file: Path) -> DrawnModel | None:
    if (described := stored_description(file)) is not None:
        options = {name: value for name, value in described["options"].items() if name != "num_classes"}
        return DrawnModel(described["architecture"], options, described["image"]["size"])
    if (pair := stored_description(file, IMAGE_TEXT_KEY)) is not None:
        image = pair["vision_cfg"]
        options = {"img_size": image["image_size"], **image.get("timm_model_kwargs", {})}
        return DrawnModel(image["timm_model_name"], options, image["image_size"])
    return None
