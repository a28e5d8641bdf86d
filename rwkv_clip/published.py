"""Published RWKV-CLIP checkpoints: names and shapes of both towers, in both directions."""

import math
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rwkv_clip.text import TextTower
from vrwkv.errors import InputError
from vrwkv.layers.initialisation import fancy_decay
from vrwkv.models import VisionRWKV
from vrwkv.models.containers import read_state_dict
from vrwkv.models.published import BI_WKV6_NAMES, load_strictly, published_names, published_shape, rename, renamed

_TEXT = (
    (r"^token_embedding\.", "emb."),
    (r"^norm_pre\.", "blocks.0.ln0."),
    (r"^norm\.", "ln_out."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"blocks.\1.ln\2."),
    (r"^blocks\.(\d+)\.channel_mix\.mix_(\w)$", r"blocks.\1.ffn.time_maa_\2"),
    (r"^blocks\.(\d+)\.channel_mix\.", r"blocks.\1.ffn."),
)


def published_text_names(tower: TextTower) -> dict[str, str]:
    """Our name -> published name for every tensor of a `TextTower`."""
    names = {}
    for name in tower.state_dict():
        mixer_name = rename(name.replace(".time_mix.", ".spatial_mix."), BI_WKV6_NAMES).replace("layers.", "blocks.", 1)
        names[name] = mixer_name if ".time_mix." in name else rename(name, _TEXT)
    return names


def text_to_published(tower: TextTower) -> dict[str, Tensor]:
    """State dict of a `TextTower` under the published names and shapes; tensors are shared."""
    names = published_text_names(tower)
    return {names[name]: published_shape(names[name], tensor) for name, tensor in tower.state_dict().items()}


def published_clip_names(model: Any) -> dict[str, str]:
    """Our name -> published name for every tensor of a two-tower model that has one."""
    return {
        **{f"visual.trunk.{own}": f"image_model.{name}" for own, name in published_names(model.visual.trunk).items()},
        "logit_scale": "logit_scale",
        **{f"text.{own}": f"text_model.{name}" for own, name in published_text_names(model.text).items()},
    }


def to_published(model: nn.Module) -> dict[str, Tensor]:
    """State dict of a two-tower model under the published names: `image_model.*`, `logit_scale`, `text_model.*`.

    Raises:
        InputError: the model has parts that the published one lacks: a projection, a bias of the logits, another trunk.
    """
    for path, published_class in (("visual.trunk", VisionRWKV), ("text", TextTower)):
        if not isinstance(tower := model.get_submodule(path), published_class):
            raise InputError(f"only a {published_class.__name__} has a published form, not {type(tower).__name__}")
    names, state_dict = published_clip_names(model), model.state_dict()
    if extra := [name for name in state_dict if name not in names]:
        raise InputError(f"published models have no {', '.join(extra)}")
    return {names[name]: published_shape(names[name], tensor) for name, tensor in state_dict.items()}


def from_published_names(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published two-tower state dict, in whatever prefixes, under our names and shapes; unknown keys keep theirs."""
    return renamed(state_dict, {published: own for own, published in published_clip_names(model).items()})


def load_published(model: nn.Module, source: str | Path | Mapping[str, Any]) -> None:
    """Load a published RWKV-CLIP checkpoint strictly; mixed bfloat16 and float32 tensors are cast exactly.

    Args:
        model: a two-tower model as `rwkv_clip.create_model` builds it.
        source: path of the file, or its content.

    Raises:
        InputError: the file cannot be read, or keys are missing, unexpected or of another shape; they are listed.
    """
    where = "the state dict" if isinstance(source, Mapping) else str(source)
    load_strictly(model, from_published_names(model, read_state_dict(source)), where)


def changed_text_decays(state_dict: Mapping[str, Tensor]) -> int:
    """How many decays of the text tower differ from bfloat16 of their starting values.

    In released models they should not: there these parameters are bfloat16, and steps as small as training's are lost
    in rounding numbers beyond 1. A difference says that the weights come from somewhere else, or were damaged.

    Args:
        state_dict: published, prefixes stripped.
    """
    depth, changed = _depth(state_dict, "text_model.blocks."), 0
    for layer in range(depth):
        decay = state_dict[f"text_model.blocks.{layer}.att.time_decay"].flatten().float()
        start = fancy_decay(decay.shape[0], layer, depth, -6.0, -1.0).float().bfloat16().float()
        changed += int((decay != start).sum())
    return changed


def text_from_published(
    config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor] | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> TextTower:
    """Build a text tower from the published configuration and, if given, load published weights strictly.

    Args:
        config: the published names: `n_embd`, `n_layer`, `head_size`, `dim_ffn`, `ctx_len`, `vocab_size`; the optional
            features of the released code (`pos_emb`, `tiny_att_dim`, `head_qk`, `dropout`) must be off, as published.
        state_dict: tensors under the published names.
        device, dtype: of the parameters.

    Raises:
        InputError: another kind than "clip_text", an unknown argument, a feature that no published model uses, or
            weights that do not fit.
    """
    if config.get("kind", "clip_text") != "clip_text":
        raise InputError(f"kind must be 'clip_text', not {config['kind']!r}; vrwkv.from_published builds image towers")
    known = {
        "kind",
        "n_embd",
        "n_layer",
        "head_size",
        "dim_ffn",
        "dim_att",
        "ctx_len",
        "vocab_size",
        "head_size_divisor",
    }
    off = {"head_qk", "tiny_att_dim", "pos_emb", "dropout"}
    passed_over = {"tiny_att_layer", "with_cp", "text_num_head", "text_initialization", "precision"}
    for name, value in config.items():
        if name not in known | off | passed_over:
            nearest = get_close_matches(name, known, 1, 0.0)[0]
            raise InputError(f"published argument {name!r} is unknown; did you mean {nearest!r}?")
        if name in off and value:
            raise InputError(f"published argument {name!r} must be 0, as in every published model, not {value!r}")
    if missing := [name for name in ("n_embd", "n_layer") if name not in config]:
        raise InputError(f"published arguments {' and '.join(missing)} are missing")
    dim = config["n_embd"]
    if config.get("dim_att", dim) != dim or config.get("head_size_divisor", 8) != 8:
        raise InputError("published arguments dim_att and head_size_divisor must equal n_embd and 8")
    head_size, hidden_dim = config.get("head_size", 64), config.get("dim_ffn", int(dim * 3.5) // 32 * 32)
    if dim % head_size or hidden_dim % 32:
        raise InputError(
            f"head_size {head_size} must divide n_embd {dim}, and dim_ffn {hidden_dim} be a multiple of 32"
        )
    tower = TextTower(
        embed_dim=dim,
        depth=config["n_layer"],
        num_heads=dim // head_size,
        mlp_ratio=hidden_dim / dim,
        context_length=config.get("ctx_len", 77),
        vocab_size=config.get("vocab_size", 49408),
        device=device,
        dtype=dtype,
    )
    if state_dict is not None:
        ours = {published: own for own, published in published_text_names(tower).items()}
        load_strictly(tower, renamed(state_dict, ours), "the state dict")
    return tower


def open_clip_config(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """The model configuration that a published state dict (prefixes stripped) was trained with, read off its shapes.

    Raises:
        InputError: these are not RWKV-CLIP weights.
    """
    try:
        patch_weight = state_dict["image_model.patch_embed.projection.weight"]
        positions = state_dict["image_model.pos_embed"].shape[1]
        image_heads = state_dict["image_model.layers.0.att.time_faaaa"].shape[0]
        image_hidden = state_dict["image_model.layers.0.ffn.key.weight"].shape[0]
        vocab_size, text_dim = state_dict["text_model.emb.weight"].shape
        text_heads = state_dict["text_model.blocks.0.att.time_faaaa"].shape[0]
        text_hidden = state_dict["text_model.blocks.0.ffn.key.weight"].shape[0]
        embed_dim, patch_size = patch_weight.shape[0], patch_weight.shape[-1]
    except KeyError as error:
        raise InputError(f"these are not RWKV-CLIP weights: {error.args[0]} is missing") from None
    except (IndexError, ValueError) as error:
        raise InputError(
            f"these are not RWKV-CLIP weights: a tensor has another number of dimensions ({error})"
        ) from None
    image_depth, text_depth = (_depth(state_dict, prefix) for prefix in ("image_model.layers.", "text_model.blocks."))
    return {
        "embed_dim": embed_dim,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "rwkv_clip_base_patch32_224",
            "timm_pool": "avg",
            "timm_proj": "none",
            "image_size": math.isqrt(positions) * patch_size,
            "timm_model_kwargs": {
                "patch_size": patch_size,
                "embed_dim": embed_dim,
                "depth": image_depth,
                "num_heads": image_heads,
                "mlp_ratio": image_hidden / embed_dim,
            },
        },
        "text_cfg": {
            "rwkv_mixer": "rwkv6_bi",
            "context_length": 77,
            "vocab_size": vocab_size,
            "width": text_dim,
            "layers": text_depth,
            "heads": text_heads,
            "mlp_ratio": text_hidden / text_dim,
        },
    }


def _depth(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    layers = {name.removeprefix(prefix).partition(".")[0] for name in state_dict if name.startswith(prefix)}
    return 1 + max(int(layer) for layer in layers if layer.isdigit())
