"""Classifiers with all that is needed to feed them: from a configuration, from a file, or from a finished run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import nn

from vrwkv.data.augmentation import ImageFormat
from vrwkv.errors import InputError
from vrwkv.models.containers import read_state_dict
from vrwkv.objectives.classifier_config import ClassifierModelConfig, check_architecture
from vrwkv.objectives.starting_weights import load_as_stored, load_starting_weights, weights_file
from vrwkv.training.weights import load_state

METADATA_KEY = "vrwkv_classifier"


@dataclass
class Classifier:
    """A model and what belongs to it."""

    model: nn.Module
    architecture: str
    options: dict[str, Any]
    """Arguments that `timm.create_model(architecture, **options)` rebuilds the model from."""
    image: ImageFormat
    """What the model expects of its images."""
    class_names: list[str] | None
    """Name of each class, None where nobody said."""
    starting_point: str = ""
    """What was loaded into the fresh model, in words."""

    @property
    def num_classes(self) -> int:
        """Classes that the model tells apart; 0 for a backbone."""
        return int(self.model.num_classes)  # type: ignore[arg-type]


def create_classifier(
    config: ClassifierModelConfig, num_classes: int, class_names: Sequence[str] | None = None
) -> Classifier:
    """Build a classifier with fresh weights or those of `config.checkpoint`.

    Args:
        config: the model; its num_classes is not read.
        num_classes: outputs.
        class_names: their names, kept with the weights.

    Raises:
        InputError: arguments that the architecture refuses, or weights that do not fit.
    """
    options: dict[str, Any] = {"num_classes": num_classes, **config.options}
    for name in ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio"):
        if getattr(config, name) is not None:
            options[name] = getattr(config, name)
    for name in ("drop_rate", "drop_path_rate"):
        if getattr(config, name):
            options[name] = getattr(config, name)
    model, options = _build(config.architecture, options, config.image_size)
    if model.num_classes != num_classes:
        raise InputError(f"model.architecture {config.architecture!r} cannot classify {num_classes} classes")
    started = load_starting_weights(model, config.checkpoint) if config.checkpoint else ""
    if config.trainable == "head":
        freeze_backbone(model)
    names = None if class_names is None else list(class_names)
    image = image_format(model, config.image_size, config.max_tokens)
    return Classifier(model, config.architecture, options, image, names, started)


def freeze_backbone(model: Any) -> None:
    """Leave only the parameters of the classifier trainable.

    Raises:
        InputError: the model has no classifier.
    """
    model.requires_grad_(False)
    heads = model.get_classifier()
    for head in heads if isinstance(heads, tuple) else (heads,):
        head.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("model.trainable=head needs a model with a classifier, and this one has none")


def check_class_names(classifier: Classifier, class_names: Sequence[str], owner: str) -> None:
    """Refuse labels that mean something else to the classifier than to `owner`.

    Names that have nothing in common (numbers and words, say) are taken for two ways to name the same classes; names
    that agree in part mean a missing or a foreign class, after which every label would be off.

    Raises:
        InputError: too many classes, or names that agree in part.
    """
    known = classifier.class_names
    if len(class_names) > classifier.num_classes:
        raise InputError(f"{owner} has {len(class_names)} classes, the model {classifier.num_classes}")
    if known is None or not set(known) & set(class_names):
        return
    for label, (ours, theirs) in enumerate(zip(known, class_names, strict=False)):
        if ours != theirs:
            raise InputError(
                f"the classes of {owner} are not the model's: class {label} is {theirs!r} there, {ours!r} to the model"
            )


def save_metadata(classifier: Classifier) -> dict[str, str]:
    """What a weights file says about its model, so that `load_classifier` needs nothing else."""
    content = {
        "architecture": classifier.architecture,
        "options": classifier.options,
        "image": asdict(classifier.image),
        "class_names": classifier.class_names,
    }
    return {METADATA_KEY: json.dumps(content, ensure_ascii=False)}


def load_classifier(
    path: str | Path, device: torch.device | str = "cpu", default_architecture: str | None = None
) -> Classifier:
    """A trained classifier, in eval mode.

    Args:
        path: a run folder, its model.safetensors, or, with `default_architecture`, any weights of that architecture (a
            published .pth, for example).
        device: where to put the model.
        default_architecture: name for `timm.create_model` where the file does not say what it holds.

    Raises:
        InputError: nothing there, unreadable, or weights that do not fit.
    """
    file = weights_file(path)
    described = stored_description(file)
    if described is None:
        return _load_undescribed(file, device, default_architecture)
    model, options = _build(described["architecture"], described["options"], None)
    load_state(model, read_state_dict(file), str(file))
    image: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in described["image"].items()
    }
    return Classifier(
        model.to(device).eval(), described["architecture"], options, ImageFormat(**image), described["class_names"]
    )


def _load_undescribed(file: Path, device: torch.device | str, architecture: str | None) -> Classifier:
    if architecture is None:
        raise InputError(
            f"{file} does not say which model it holds: name it, for example --model vrwkv_tiny_patch16_224"
        )
    check_architecture(architecture, "--model")
    model, options = _build(architecture, {}, None)
    load_as_stored(model, file)
    options["num_classes"] = model.num_classes
    return Classifier(model.to(device).eval(), architecture, options, image_format(model, None), None)


def _build(architecture: str, options: Mapping[str, Any], image_size: int | None) -> tuple[Any, dict[str, Any]]:
    """The model and the arguments that rebuild it; `img_size` is among them where the architecture takes it."""
    arguments = {**options, **({} if image_size is None else {"img_size": image_size})}
    try:
        return timm.create_model(architecture, pretrained=False, **arguments), arguments
    except TypeError as error:
        if image_size is not None and "'img_size'" in str(error):
            return _build(architecture, options, None)  # a convolutional network, which takes any size
        reason = str(error)
    except (ValueError, AssertionError, RuntimeError, KeyError) as error:
        # timm's and torch's ways of refusing a constructor's arguments.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise InputError(f"model {architecture} cannot be built: {reason}")


def image_format(model: Any, image_size: int | None, max_tokens: int | None = None) -> ImageFormat:
    """What a timm model expects of its images by its own account; `image_size` has the last word on their size.

    Raises:
        InputError: `max_tokens` for a model that cannot take images of different sizes at once.
    """
    if max_tokens is not None and not hasattr(model, "forward_packed"):
        raise InputError(
            f"images keep their own sizes (max_tokens={max_tokens}) with vrwkv models only, not with "
            f"{type(model).__name__}"
        )
    found = resolve_data_config(model=model)
    return ImageFormat(
        image_size or int(found["input_size"][-1]),
        tuple(float(value) for value in found["mean"]),  # type: ignore[arg-type]
        tuple(float(value) for value in found["std"]),  # type: ignore[arg-type]
        str(found["interpolation"]),
        float(found["crop_pct"]),
        max_tokens,
        model.patch_embed.patch_size if max_tokens is not None else ImageFormat.patch_size,
    )


def stored_description(file: Path, key: str = METADATA_KEY) -> dict[str, Any] | None:
    """What `save_metadata` wrote into a weights file: architecture, options, image and class_names; None if nothing.

    Args:
        file: of weights; only .safetensors files describe themselves.
        key: what the description is kept under.

    Raises:
        InputError: a .safetensors file that cannot be read.
    """
    if file.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a readable safetensors file: {error}") from None
    return json.loads(metadata[key]) if key in metadata else None
