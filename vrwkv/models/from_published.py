"""Image towers from the constructor arguments of the published classes."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from vrwkv.errors import InputError
from vrwkv.models.published import load_published
from vrwkv.models.vision_rwkv import VisionRWKV

ARGUMENT_NAMES = {
    "img_size": "img_size",
    "patch_size": "patch_size",
    "in_channels": "in_chans",
    "embed_dims": "embed_dim",
    "num_heads": "num_heads",
    "depth": "depth",
    "drop_rate": "pos_drop_rate",
    "drop_path_rate": "drop_path_rate",
    "channel_gamma": "channel_gamma",
    "shift_pixel": "shift_pixel",
    "init_mode": "init_mode",
    "post_norm": "post_norm",
    "key_norm": "key_norm",
    "init_values": "init_values",
    "hidden_rate": "mlp_ratio",
    "final_norm": "final_norm",
    "with_cls_token": "class_token",
}
# Settings of the published classes that concern how they are called, not what they compute.
_ELSEWHERE = {
    "kind",
    "out_indices",
    "with_cp",
    "output_cls_token",
    "interpolate_mode",
    "shift_mode",
    "pretrained",
    "init_cfg",
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "vrwkv": {"mixer": "bi_wkv", "embed_dim": 256},
    "vrwkv6": {"mixer": "bi_wkv6", "embed_dim": 256},
    "clip_image": {"mixer": "bi_wkv6", "embed_dim": 640, "num_heads": 8, "mlp_ratio": 5.0, "weight_init": "torch"},
}


def from_published(
    config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor] | None = None,
    *,
    formula: str = "paper",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> VisionRWKV:
    """Build an image tower from a published configuration and, if given, load published weights strictly.

    Args:
        config: `kind` ("vrwkv", "vrwkv6" or "clip_image") and the published constructor's arguments (`embed_dims`,
            `depth`, `init_values`, …). `out_indices` belongs to `VisionRWKV.forward_maps` and is passed over here.
        state_dict: tensors under the published names.
        formula: "paper" or "published" Bi-WKV.
        device, dtype: of the parameters.

    Returns:
        The tower, without a classifier.

    Raises:
        InputError: an unknown kind or argument (the nearest known one is named), or weights that do not fit.
    """
    kind = config.get("kind")
    if kind not in _DEFAULTS:
        raise InputError(f"kind must be one of {sorted(_DEFAULTS)}, not {kind!r}")
    arguments = dict(_DEFAULTS[kind])
    for name, value in config.items():
        if name in ARGUMENT_NAMES:
            arguments[ARGUMENT_NAMES[name]] = value
        elif name not in _ELSEWHERE:
            nearest = get_close_matches(name, ARGUMENT_NAMES, 1, 0.0)[0]
            raise InputError(f"published argument {name!r} is unknown; did you mean {nearest!r}?")
    model = VisionRWKV(num_classes=0, formula=formula, device=device, dtype=dtype, **arguments)
    model.set_grad_checkpointing(bool(config.get("with_cp", False)))
    if state_dict is not None:
        load_published(model, state_dict)
    return model
