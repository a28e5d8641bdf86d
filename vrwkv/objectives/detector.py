"""Detectors with the names of their classes: from a configuration, or from a finished run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vrwkv.dense.adapter import VisionRWKVAdapter
from vrwkv.dense.backbone_weights import load_backbone
from vrwkv.dense.detector import DetectorShape, create_rcnn
from vrwkv.errors import InputError
from vrwkv.models.containers import read_state_dict
from vrwkv.models.vision_rwkv import VisionRWKV
from vrwkv.objectives.classifier import stored_description
from vrwkv.objectives.detection_config import DetectorModelConfig
from vrwkv.objectives.starting_weights import weights_file
from vrwkv.training.weights import load_state

METADATA_KEY = "vrwkv_detector"
BODY = "backbone.body."
"""What the names of the backbone's tensors begin with in a detector."""
PREDICTORS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.")
"""Parts whose shape depends on the number of classes."""


@dataclass
class Detector:
    """A model and what belongs to it."""

    model: nn.Module
    config: DetectorModelConfig
    """What `create_detector` rebuilds it from."""
    class_names: list[str]
    """Of labels 1, 2, …; 0 is the background."""
    starting_point: str = ""
    """What was loaded into the fresh model, in words."""


def create_detector(config: DetectorModelConfig, class_names: Sequence[str]) -> Detector:
    """Build a detector with fresh weights, or a backbone (or more) from `config.checkpoint`.

    Raises:
        InputError: arguments that the backbone refuses, or weights that do not fit.
    """
    shape = DetectorShape(**{field.name: getattr(config, field.name) for field in fields(DetectorShape)})
    body = create_body(config)
    try:
        model = create_rcnn(body, len(class_names) + 1, shape, masks=config.masks)
    except ValueError as error:
        raise InputError(f"no detector can be built over {config.architecture}: {error}") from None
    started = _load_starting_weights(model, config.checkpoint) if config.checkpoint else ""
    return Detector(model, config, list(class_names), started)


def create_body(config: DetectorModelConfig) -> VisionRWKV:
    """The backbone of a detector, with fresh weights.

    Raises:
        InputError: arguments that the architecture refuses.
    """
    options: dict[str, Any] = {"model_class": VisionRWKVAdapter, "taps": "detection"} if config.adapter else {}
    options |= {"num_classes": 0, **config.options}
    for name, argument in (
        *((name, name) for name in ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")),
        ("image_size", "img_size"),
    ):
        if getattr(config, name) is not None:
            options[argument] = getattr(config, name)
    if config.drop_path_rate:
        options["drop_path_rate"] = config.drop_path_rate
    try:
        return timm.create_model(config.architecture, pretrained=False, **options)  # type: ignore[return-value]
    except (TypeError, ValueError, AssertionError, RuntimeError, KeyError) as error:
        # timm's and torch's ways of refusing a constructor's arguments.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"backbone {config.architecture} cannot be built: {reason}") from None


def save_metadata(detector: Detector) -> dict[str, str]:
    """What a weights file says about its model, so that `load_detector` needs nothing else."""
    content = {"model": {**asdict(detector.config), "checkpoint": ""}, "class_names": detector.class_names}
    return {METADATA_KEY: json.dumps(content, ensure_ascii=False)}


def load_detector(path: str | Path, device: torch.device | str = "cpu") -> Detector:
    """A trained detector, in eval mode.

    Args:
        path: a run folder, or its model.safetensors.
        device: where to put the model.

    Raises:
        InputError: nothing there, unreadable, or no detector.
    """
    file = weights_file(path)
    described = stored_description(file, METADATA_KEY)
    if described is None:
        raise InputError(f"{file} does not hold a detector that train_detector.py has trained")
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in described["model"].items()
    }
    detector = create_detector(DetectorModelConfig(**settings), described["class_names"])
    load_state(detector.model, read_state_dict(file), str(file))
    detector.model.to(device).eval()
    return detector


def _load_starting_weights(model: Any, source: str) -> str:
    """Fill the backbone, or of another detector everything that does not depend on the number of classes."""
    file = weights_file(source)
    stored = read_state_dict(file)
    if not any(name.startswith(BODY) for name in stored):
        load_backbone(model.backbone.body, file)
        return f"the backbone of {source}"
    own = model.state_dict()
    fresh = [part for part in PREDICTORS if _shapes(own, part) != _shapes(stored, part)]
    kept = {name: tensor for name, tensor in stored.items() if not name.startswith(tuple(fresh))}
    load_state(model, kept | {name: own[name] for name in own if name.startswith(tuple(fresh))}, str(file))
    return source + (" with fresh predictors" if fresh else "")


def _shapes(tensors: Mapping[str, Tensor], part: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith(part)}
