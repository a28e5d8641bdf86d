"""Names of the published checkpoints and ours: one table, used in both directions by every way of loading."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from timm.layers import resample_patch_embed, to_2tuple
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
    return {own: own_shape(name, state_dict[name]) for name, own in own_names(state_dict, ours).items()}


def own_names(names: Iterable[str], ours: Mapping[str, str]) -> dict[str, str]:
    """Each of the published `names`, in whatever prefixes, with the name we have for it; see `renamed`."""
    result: dict[str, str] = {}
    taken = set()
    for name in names:
        stripped = strip_prefixes(name)
        own = ours.get(stripped, stripped)
        if own in taken:
            raise InputError(f"key {name!r} of the checkpoint stands for {own!r}, and so does another one")
        taken.add(own)
        result[name] = own
    return result


def own_shape(name: str, tensor: Tensor) -> Tensor:
    """`tensor`, published under `name`, as we store it: mixes have one dimension. The inverse of `published_shape`."""
    published_mix = tensor.ndim == 3 and tensor.shape[:2] == (1, 1) and _THREE_DIMENSIONAL.search(strip_prefixes(name))
    return tensor[0, 0] if published_mix else tensor


def from_published_names(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state_dict` under the names and shapes of `model`, as `renamed` translates it."""
    return renamed(image_tower(state_dict), names_in_files(published_names(model)))


def names_in_files(names: Mapping[str, str]) -> dict[str, str]:
    """Published name -> our name from the inverse table; a single linear head may also stand directly at `head`."""
    ours = {published: name for name, published in names.items()}
    ours |= {name.replace("head.fc.", "head."): own for name, own in ours.items() if name.startswith("head.fc.")}
    return ours


def image_tower(state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The image tower of a published RWKV-CLIP state dict under its own names; any other state dict unchanged."""
    tower = {
        stripped.removeprefix("image_model."): tensor
        for name, tensor in state_dict.items()
        if (stripped := strip_prefixes(name)).startswith("image_model.")
    }
    return tower or state_dict


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

    As timm's own models do, it resizes the position embedding and the patch weights to those of `model`. The
    classifier is left to timm, which drops it, and the strictness of its loading, for another number of classes.

    Raises:
        InputError: there is no state dict, or keys beside the classifier's are missing or unexpected; they are listed.
    """
    tensors = from_published_names(model, unwrap(state_dict))
    own = model.state_dict()
    classifier = {nn.Identity: ("head.",), nn.Sequential: ("head.2.",)}.get(
        type(model.head), ("head.weight", "head.bias")
    )
    if not any(name.startswith("head.") for name in tensors):
        classifier = ("head.",)
    problems = misfits(
        [name for name in own if not name.startswith(classifier)],
        [name for name in tensors if not name.startswith(classifier)],
    )
    if problems:
        raise InputError(f"the pretrained weights do not fit this {type(model).__name__}: {'; '.join(problems)}")
    patches, patch_size = tensors["patch_embed.proj.weight"], own["patch_embed.proj.weight"].shape[2:]
    grid = learnt_grid(model, tensors["pos_embed"], patches)
    if grid is not None:
        tensors["pos_embed"] = resample_position_embedding(tensors["pos_embed"], grid, model.patch_embed.grid_size)
    if patches.ndim == 4 and patches.shape[2:] != patch_size:
        tensors["patch_embed.proj.weight"] = resample_patch_embed(patches, list(patch_size))
    return tensors


def learnt_grid(model: Any, positions: Tensor, patches: Tensor) -> tuple[int, int] | None:
    """The grid (height, width) on which a checkpoint's position embedding was learnt.

    As far as timm's notes beside the checkpoint say, which `model` then has; else a square unless it fits `model`, too.

    Args:
        model: the model to load it into.
        positions: (1, T, C) the checkpoint's position embedding.
        patches: the checkpoint's patch weights, whose last two sizes are its patch size.

    Returns:
        The grid; None where it is unknown, or where the tokens are as many as those of `model`.
    """
    if positions.ndim != 3:
        return None
    noted = getattr(model, "pretrained_model_args", {}).get("img_size")
    if noted is not None and patches.ndim == 4:
        height, width = (-(-size // patch) for size, patch in zip(to_2tuple(noted), patches.shape[2:], strict=True))
        if height * width == positions.shape[1]:
            return height, width
    side = math.isqrt(positions.shape[1])
    is_square = side * side == positions.shape[1] and positions.shape != model.pos_embed.shape
    return (side, side) if is_square else None


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
    check_fit(model, state_dict, where)
    model.load_state_dict(dict(state_dict), strict=True)


def check_fit(model: nn.Module, state_dict: Mapping[str, Tensor], where: str) -> None:
    """Raise an InputError that lists every name and shape of `state_dict` that is not the one of `model`."""
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
