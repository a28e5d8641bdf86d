"""Names of the published checkpoints and ours: one table, used in both directions by every way of loading."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from timm.layers import resample_patch_embed
from torch import Tensor, nn

from vrwkv.errors import InputError
from vrwkv.models.containers import read_state_dict, unwrap
from vrwkv.models.position import resample_position_embedding

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
    """Our name -> published name for every tensor of a `VisionRWKV`; a classifier is `head.fc` or `head.{0,2}`."""
    own = model.state_dict().keys()
    mixer = BI_WKV6_NAMES if any(name.endswith("spatial_mix.mix_down") for name in own) else _BI_WKV
    head = ((r"^head\.(weight|bias)$", r"head.fc.\1"),)
    return {name: rename(name, _TRUNK + mixer + head) for name in own}


def to_published(model: nn.Module) -> dict[str, Tensor]:
    """State dict of a `VisionRWKV` under the published names and shapes, without prefix; the tensors are shared."""
    names = published_names(model)
    return {names[name]: published_shape(names[name], tensor) for name, tensor in model.state_dict().items()}


def published_shape(name: str, tensor: Tensor) -> Tensor:
    """`tensor` as the released code stores it under its published `name`: mixes have three dimensions."""
    return tensor[None, None] if tensor.ndim == 1 and _THREE_DIMENSIONAL.search(name) else tensor


def strip_prefixes(name: str) -> str:
    """`name` without what wrappers put before it: up to the last `module.` and `_orig_mod.`, then `backbone.`."""
    for wrapper in ("module.", "_orig_mod."):
        name = name[name.rfind(wrapper) + len(wrapper) :] if wrapper in name else name
    return name.removeprefix("backbone.")


def looks_published(state_dict: Mapping[str, Any]) -> bool:
    """Whether any key follows the published naming of blocks."""
    return any(re.search(r"(^|\.)layers\.\d+\.(att|ffn|ln[012]|gamma[12])\b", name) for name in state_dict)


def renamed(state_dict: Mapping[str, Tensor], ours: Mapping[str, str]) -> dict[str, Tensor]:
    """`state_dict` under our names and shapes.

    Args:
        state_dict: published tensors by name, in whatever prefixes.
        ours: published name -> our name. Keys that are not in it keep their (stripped) name.

    Raises:
        InputError: two keys that stand for the same tensor.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        stripped = strip_prefixes(name)
        own = ours.get(stripped, stripped)
        if own in result:
            raise InputError(f"key {name!r} of the checkpoint stands for {own!r}, and so does another one")
        published_mix = tensor.ndim == 3 and tensor.shape[:2] == (1, 1) and _THREE_DIMENSIONAL.search(stripped)
        result[own] = tensor[0, 0] if published_mix else tensor
    return result


def from_published_names(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state_dict` under the names and shapes of `model`, as `renamed` translates it."""
    ours = {published: name for name, published in published_names(model).items()}
    ours |= {name.replace("head.fc.", "head."): own for name, own in ours.items() if name.startswith("head.fc.")}
    return renamed(state_dict, ours)


def accept_published_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """A load_state_dict pre-hook: published names and shapes are translated in place, ours pass unchanged."""
    inside = {name: tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    own = {name.removeprefix(prefix): tensor for name, tensor in inside.items()}
    if not looks_published(own):
        return
    for name in inside:
        del state_dict[name]
    state_dict.update({prefix + name: tensor for name, tensor in from_published_names(module, own).items()})


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """timm's hook for pretrained weights: published or our names, wrapped in whatever prefixes, to our names.

    As timm's own models do, it resizes a (square) position embedding and the patch weights to those of `model`. The
    classifier is left to timm, which drops it, and the strictness of its loading, for another number of classes.

    Raises:
        InputError: there is no state dict, or keys beside the classifier's are missing or unexpected; they are listed.
    """
    tensors = from_published_names(model, unwrap(state_dict))
    own = model.state_dict()
    classifier = {nn.Identity: ("head.",), nn.Sequential: ("head.2.",)}.get(
        type(model.head), ("head.weight", "head.bias")
    )
    problems = misfits(
        [name for name in own if not name.startswith(classifier)],
        [name for name in tensors if not name.startswith(classifier)],
    )
    if problems:
        raise InputError(f"the pretrained weights do not fit this {type(model).__name__}: {'; '.join(problems)}")
    positions = tensors["pos_embed"]
    side = math.isqrt(positions.shape[1]) if positions.ndim == 3 else 0
    if positions.shape != own["pos_embed"].shape and side and side * side == positions.shape[1]:
        tensors["pos_embed"] = resample_position_embedding(positions, (side, side), model.patch_embed.grid_size)
    patches, patch_size = tensors["patch_embed.proj.weight"], own["patch_embed.proj.weight"].shape[2:]
    if patches.ndim == 4 and patches.shape[2:] != patch_size:
        tensors["patch_embed.proj.weight"] = resample_patch_embed(patches, list(patch_size))
    return tensors


def misfits(own: Iterable[str], given: Iterable[str]) -> list[str]:
    """The names in `own` that `given` lacks, and the other way round, as parts of an error message."""
    own, given = dict.fromkeys(own), dict.fromkeys(given)
    kinds = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
    }
    return [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in kinds.items() if names]


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
    problems = misfits(own, state_dict)
    reshaped = [
        f"{name} {tuple(state_dict[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state_dict and state_dict[name].shape != tensor.shape
    ]
    if reshaped:
        problems.append(f"{len(reshaped)} of another shape: {', '.join(reshaped)}")
    if problems:
        raise InputError(f"{where} does not fit this {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict(dict(state_dict), strict=True)
