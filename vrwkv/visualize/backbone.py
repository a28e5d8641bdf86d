"""Backbones by name, without a classifier: untrained, or with the weights of a checkpoint of whatever layout."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.models import VisionRWKV
from vrwkv.models.containers import read_state_dict
from vrwkv.models.published import from_published_names

# Where image-text models keep their image tower: open_clip's layout, and that of published RWKV-CLIP files.
_TOWERS = ("visual.trunk.", "image_model.")
_NAMED = 2
"""Keys named in an error, of each kind."""


def build_backbone(name: str, options: Mapping[str, Any] | None = None, seed: int = 0) -> nn.Module:
    """A model of timm or of ours with its starting weights, in evaluation mode and without a classifier.

    Args:
        name: as `timm.create_model` takes it; vision transformers are made to accept any image size.
        options: further arguments of the model, such as `depth` and `img_size`.
        seed: of the starting weights; the random state of the caller is left as it was.

    Raises:
        InputError: no model of that name (near ones are given), or it does not take these options.
    """
    base = name.partition(".")[0]
    if not timm.is_model(base):
        known = timm.list_models()
        ours = [each for each in known if each.startswith(("vrwkv", "rwkv_clip"))]
        close = get_close_matches(base, known, n=3) or ours[:3]
        raise InputError(f"unknown model '{name}'; did you mean {' or '.join(close)}?")
    arguments: dict[str, Any] = {"num_classes": 0, **(options or {})}
    if base.startswith(("vit_", "deit", "eva")):
        arguments.setdefault("dynamic_img_size", True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return timm.create_model(name, **arguments).eval()
        except (TypeError, ValueError) as error:
            raise InputError(f"model '{name}' cannot be built with {arguments}: {error}") from None


def load_backbone(model: nn.Module, checkpoint: str | Path) -> None:
    """Fill a model made by `build_backbone`; a classifier in the file is passed over.

    Args:
        model: filled in place.
        checkpoint: a .safetensors file or a torch pickle of this model or of its published form, a run folder with
            `model.safetensors`, or an image-text model's, of which the image tower is taken.

    Raises:
        InputError: the file cannot be read, or belongs to another model: keys are counted, the first of them named.
    """
    path = Path(checkpoint)
    if (path / "model.safetensors").is_file():
        path = path / "model.safetensors"
    tensors = read_state_dict(path)
    for tower in _TOWERS:
        if any(name.startswith(tower) for name in tensors):
            tensors = {name.removeprefix(tower): each for name, each in tensors.items() if name.startswith(tower)}
    if isinstance(model, VisionRWKV):
        tensors = from_published_names(model, tensors)
    own = model.state_dict()
    tensors = {name: each for name, each in tensors.items() if name in own or not name.startswith(("head.", "fc."))}
    if problems := _misfits(own, tensors):
        raise InputError(f"checkpoint {path} does not fit this {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict(tensors)


def _misfits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    kinds = {
        "missing": [name for name in own if name not in tensors],
        "unexpected": [name for name in tensors if name not in own],
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} for {tuple(each.shape)}"
            for name, each in own.items()
            if name in tensors and tensors[name].shape != each.shape
        ],
    }
    return [
        f"{len(names)} {kind} ({', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''})"
        for kind, names in kinds.items()
        if names
    ]
