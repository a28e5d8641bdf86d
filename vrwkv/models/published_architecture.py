"""Which Vision-RWKV a published state dict belongs to, read off its names and shapes."""

import math
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import timm
import torch
from torch import Tensor

from vrwkv.errors import InputError
from vrwkv.models import registry
from vrwkv.models.vision_rwkv import VisionRWKV

_NAMES = {
    ("bi_wkv", 192, 12): "vrwkv_tiny_patch16_224",
    ("bi_wkv", 384, 12): "vrwkv_small_patch16_224",
    ("bi_wkv", 768, 12): "vrwkv_base_patch16_224",
    ("bi_wkv", 1024, 24): "vrwkv_large_patch16_384",
    ("bi_wkv6", 192, 12): "vrwkv6_tiny_patch16_224",
    ("bi_wkv6", 384, 12): "vrwkv6_small_patch16_224",
    ("bi_wkv6", 768, 12): "vrwkv6_base_patch16_224",
}


def is_adapter(names: Iterable[str]) -> bool:
    """Whether published names, prefixes stripped, are those of a backbone inside a ViT-Adapter."""
    return any(name.startswith(("spm.", "interactions.")) for name in names)


def architecture_name(arguments: Mapping[str, Any]) -> str:
    """The registered name of the published model of this mixer, width and depth.

    Raises:
        InputError: no published model is like that.
    """
    size = (arguments["mixer"], arguments["embed_dim"], arguments["depth"])
    if size not in _NAMES:
        raise InputError(
            f"no published model has mixer {size[0]}, width {size[1]} and depth {size[2]}; "
            "say with --model which one this file is a variant of (norms do not show in the shapes)"
        )
    return _NAMES[size]


def checked_name(name: str) -> str:
    """`name`, if `timm.create_model` knows it as one of ours.

    Raises:
        InputError: it does not; the nearest names are given.
    """
    if name.partition(".")[0] not in registry.__all__:
        near = " or ".join(repr(other) for other in get_close_matches(name, registry.__all__, 3, 0.0))
        raise InputError(f"model {name!r} is unknown; did you mean {near}?")
    return name


def constructor_arguments(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """What shapes tell about the constructor's arguments of a `VisionRWKV`; `post_norm` is not among it.

    Args:
        state_dict: tensors under published names, prefixes stripped; those of other parts are passed over.

    Raises:
        InputError: this is no Vision-RWKV.
    """
    try:
        width, channels, *patch = state_dict["patch_embed.projection.weight"].shape
        positions = state_dict["pos_embed"].shape[1]
        hidden = state_dict["layers.0.ffn.key.weight"].shape[0]
        bonus6 = state_dict.get("layers.0.att.time_faaaa")
        if bonus6 is None:
            state_dict["layers.0.att.spatial_decay"]
        layers = {int(block[1]) for name in state_dict if (block := re.match(r"layers\.(\d+)\.", name))}
        side = math.isqrt(positions)
        arguments: dict[str, Any] = {
            "mixer": "bi_wkv" if bonus6 is None else "bi_wkv6",
            "img_size": side * patch[0],
            "patch_size": patch[0],
            "in_chans": channels,
            "num_classes": 0,
            "embed_dim": width,
            "depth": 1 + max(layers),
            "mlp_ratio": hidden / width,
            "init_values": 1e-5 if "layers.0.gamma1" in state_dict else None,
            "key_norm": "layers.0.att.key_norm.weight" in state_dict,
            "final_norm": "ln1.weight" in state_dict,
        }
        if bonus6 is not None:
            arguments["num_heads"] = bonus6.shape[0]
        for name in ("head.fc.weight", "head.weight", "head.2.weight"):
            if name in state_dict:
                arguments["num_classes"] = state_dict[name].shape[0]
        if "head.0.weight" in state_dict:
            arguments["head_hidden_dim"] = state_dict["head.0.weight"].shape[0]
    except KeyError as error:
        found = ", ".join(list(state_dict)[:3])
        raise InputError(f"these are no Vision-RWKV weights: {error.args[0]} is missing (found {found}, …)") from None
    except (IndexError, ValueError) as error:
        raise InputError(
            f"these are no Vision-RWKV weights: a tensor has another number of dimensions ({error})"
        ) from None
    if side * side != positions:
        raise InputError(f"these are no Vision-RWKV weights: {positions} positions do not form a square")
    return arguments


def empty_model(name: str, arguments: Mapping[str, Any]) -> VisionRWKV:
    """The registered model `name` with other `arguments`, on the meta device: names and shapes without memory.

    Raises:
        InputError: the model refuses the arguments.
    """
    try:
        with torch.device("meta"):
            return timm.create_model(checked_name(name), **arguments)  # type: ignore[return-value]
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"model {name!r} cannot be built like that: {str(error).splitlines()[0]}") from error
