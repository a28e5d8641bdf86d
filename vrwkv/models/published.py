"""Names of the published checkpoints and ours: one table, used in both directions by every way of loading."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.models.containers import read_state_dict

# Our name -> published name, tried in order. A published block is `layers.i`, its mixers `att` and `ffn`.
_TRUNK = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^norm_pre\.", "layers.0.ln0."),
    (r"^norm\.", "ln1."),
    (r"^blocks\.(\d+)\.norm1\.", r"layers.\1.ln1."),
    (r"^blocks\.(\d+)\.norm2\.", r"layers.\1.ln2."),
    (r"^blocks\.(\d+)\.ls([12])\.gamma$", r"layers.\1.gamma\2"),
    (r"^blocks\.(\d+)\.channel_mix\.mix_(\w)$", r"layers.\1.ffn.spatial_mix_\2"),
    (r"^blocks\.(\d+)\.channel_mix\.", r"layers.\1.ffn."),
)
_BI_WKV = (
    (r"^blocks\.(\d+)\.spatial_mix\.decay$", r"layers.\1.att.spatial_decay"),
    (r"^blocks\.(\d+)\.spatial_mix\.bonus$", r"layers.\1.att.spatial_first"),
    (r"^blocks\.(\d+)\.spatial_mix\.mix_(\w)$", r"layers.\1.att.spatial_mix_\2"),
    (r"^blocks\.(\d+)\.spatial_mix\.", r"layers.\1.att."),
)
BI_WKV6_NAMES = (
    (r"^blocks\.(\d+)\.spatial_mix\.mix_down$", r"layers.\1.att.time_maa_w1"),
    (r"^blocks\.(\d+)\.spatial_mix\.mix_up$", r"layers.\1.att.time_maa_w2"),
    (r"^blocks\.(\d+)\.spatial_mix\.mix_(\w)$", r"layers.\1.att.time_maa_\2"),
    (r"^blocks\.(\d+)\.spatial_mix\.decay$", r"layers.\1.att.time_decay"),
    (r"^blocks\.(\d+)\.spatial_mix\.decay_down$", r"layers.\1.att.time_decay_w1"),
    (r"^blocks\.(\d+)\.spatial_mix\.decay_up$", r"layers.\1.att.time_decay_w2"),
    (r"^blocks\.(\d+)\.spatial_mix\.bonus$", r"layers.\1.att.time_faaaa"),
    (r"^blocks\.(\d+)\.spatial_mix\.head_norm\.", r"layers.\1.att.ln_x."),
    (r"^blocks\.(\d+)\.spatial_mix\.", r"layers.\1.att."),
)
# Mixes (and the V6 decay) are published as (1, 1, C).
_THREE_DIMENSIONAL = re.compile(r"\.(spatial_mix_\w|time_maa_[xwkvrg]|time_decay)$")


def rename(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """`name` after the first row of `table` (pattern, replacement) that matches; unchanged if none does."""
    for pattern, replacement in table:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def published_names(model: nn.Module) -> dict[str, str]:
    """Our name -> published name for every tensor of a `VisionRWKV`; the classifier is `head.fc`, or `head.0` and `head.2`."""
    own = model.state_dict().keys()
    mixer = BI_WKV6_NAMES if any(name.endswith("spatial_mix.mix_down") for name in own) else _BI_WKV
    head = ((r"^head\.(weight|bias)$", r"head.fc.\1"),)
    return {name: rename(name, _TRUNK + mixer + head) for name in own}


def to_published(model: nn.Module) -> dict[str, Tensor]:
    """State dict of a `VisionRWKV` under the published names and shapes, without a `backbone.` prefix; tensors are shared."""
    names = published_names(model)
    return {names[name]: _published_shape(names[name], tensor) for name, tensor in model.state_dict().items()}


def _published_shape(name: str, tensor: Tensor) -> Tensor:
    return tensor[None, None] if tensor.ndim == 1 and _THREE_DIMENSIONAL.search(name) else tensor


def strip_prefixes(name: str) -> str:
    """`name` without what wrappers put before it: up to the last `module.` and `_orig_mod.`, then `backbone.`."""
    for wrapper in ("module.", "_orig_mod."):
        name = name[name.rfind(wrapper) + len(wrapper) :] if wrapper in name else name
    return name.removeprefix("backbone.")


def looks_published(state_dict: Mapping[str, Any]) -> bool:
    """Whether any key follows the published naming of blocks."""
    return any(re.search(r"(^|\.)layers\.\d+\.(att|ffn|ln[012]|gamma[12])\b", name) for name in state_dict)


def from_published_names(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state_dict` under our names and shapes. Keys that the model does not know keep their (stripped) name."""
    ours = {published: name for name, published in published_names(model).items()}
    ours |= {name.replace("head.fc.", "head."): own for name, own in ours.items() if name.startswith("head.fc.")}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    renamed = {}
    for name, tensor in state_dict.items():
        stripped = strip_prefixes(name)
        own = ours.get(stripped, stripped)
        if own in shapes and tensor.ndim != len(shapes[own]) and tensor.numel() == shapes[own].numel():
            tensor = tensor.reshape(shapes[own])
        renamed[own] = tensor
    return renamed


def accept_published_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """A load_state_dict pre-hook: published names and shapes are translated in place, ours pass unchanged."""
    inside = {name: tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    own = {name.removeprefix(prefix): tensor for name, tensor in inside.items()}
    if not looks_published(own):
        return
    for name in inside:
        del state_dict[name]
    state_dict.update({prefix + name: tensor for name, tensor in from_published_names(module, own).items()})


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """timm's hook for pretrained weights: published or our names, wrapped in whatever prefixes, to our names."""
    from vrwkv.models.containers import unwrap

    return from_published_names(model, unwrap(state_dict))


def load_published(model: nn.Module, source: str | Path | Mapping[str, Any], use_ema: bool = True) -> None:
    """Load a published checkpoint, strictly, into a `VisionRWKV`.

    Accepts bare state dicts and the mmcv and internimage containers (whose pickled yacs config is read as plain data),
    keys with `backbone.`, `module.` or `_orig_mod.` before them, and tensors of mixed dtypes. A model built without a
    classifier (num_classes=0) takes the backbone of a classifier's file.

    Args:
        model: the `VisionRWKV` to fill.
        source: path of the file (.pth, .pt or .safetensors), or its content.
        use_ema: prefer the averaged weights where the file has them.

    Raises:
        InputError: the file cannot be read, or keys are missing, unexpected or of another shape; they are listed.
    """
    where = "the state dict" if isinstance(source, Mapping) else str(source)
    state_dict = from_published_names(model, read_state_dict(source, use_ema))
    if isinstance(getattr(model, "head", None), nn.Identity):
        state_dict = {name: tensor for name, tensor in state_dict.items() if not name.startswith("head.")}
    load_strictly(model, state_dict, where)


def load_strictly(model: nn.Module, state_dict: Mapping[str, Tensor], where: str) -> None:
    """Copy `state_dict` into `model`, or raise an InputError that lists every key that does not fit."""
    own = model.state_dict()
    problems = []
    if missing := [name for name in own if name not in state_dict]:
        problems.append(f"{len(missing)} missing: {', '.join(missing)}")
    if unexpected := [name for name in state_dict if name not in own]:
        problems.append(f"{len(unexpected)} unexpected: {', '.join(unexpected)}")
    reshaped = [
        f"{name} {tuple(state_dict[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state_dict and state_dict[name].shape != tensor.shape
    ]
    if reshaped:
        problems.append(f"{len(reshaped)} of another shape: {', '.join(reshaped)}")
    if problems:
        raise InputError(f"{where} does not fit this {type(model).__name__}: {'; '.join(problems)}")
    with torch.no_grad():
        model.load_state_dict(dict(state_dict), strict=True)
