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
from vrwkv.models.containers import read_state_dict
from vrwkv.models.published import (
    BI_WKV6_NAMES,
    load_strictly,
    published_names,
    rename,
    strip_prefixes,
    to_published as image_to_published,
)

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
    state_dict = {}
    for name, published in published_text_names(tower).items():
        tensor = tower.state_dict()[name]
        threefold = tensor.ndim == 1 and (".time_maa_" in published or published.endswith(".time_decay"))
        state_dict[published] = tensor[None, None] if threefold else tensor
    return state_dict


def to_published(model: nn.Module) -> dict[str, Tensor]:
    """State dict of a two-tower model under the published names: `image_model.*`, `logit_scale`, `text_model.*`."""
    state_dict = {f"image_model.{name}": tensor for name, tensor in image_to_published(model.visual.trunk).items()}
    state_dict["logit_scale"] = model.logit_scale.detach()
    state_dict |= {f"text_model.{name}": tensor for name, tensor in text_to_published(model.text).items()}
    return state_dict


def from_published_names(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published two-tower state dict under our names and shapes; unknown keys keep theirs."""
    ours = {f"image_model.{published}": f"visual.trunk.{own}" for own, published in published_names(model.visual.trunk).items()}
    ours |= {f"text_model.{published}": f"text.{own}" for own, published in published_text_names(model.text).items()}
    return _renamed(model, state_dict, ours)


def _renamed(model: nn.Module, state_dict: Mapping[str, Tensor], ours: Mapping[str, str]) -> dict[str, Tensor]:
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    renamed = {}
    for name, tensor in state_dict.items():
        own = ours.get(name, name)
        fits = own in shapes and tensor.numel() == shapes[own].numel() and tensor.ndim != len(shapes[own])
        renamed[own] = tensor.reshape(shapes[own]) if fits else tensor
    return renamed


def load_published(model: nn.Module, source: str | Path | Mapping[str, Any]) -> None:
    """Load a published RWKV-CLIP checkpoint strictly; mixed bfloat16 and float32 tensors are cast exactly.

    Args:
        model: a two-tower model as `rwkv_clip.create_model` builds it.
        source: path of the file, or its content.

    Raises:
        InputError: the file cannot be read, or keys are missing, unexpected or of another shape; they are listed.
    """
    where = "the state dict" if isinstance(source, Mapping) else str(source)
    state_dict = {strip_prefixes(name): tensor for name, tensor in read_state_dict(source).items()}
    load_strictly(model, from_published_names(model, state_dict), where)


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
    known = {"kind", "n_embd", "n_layer", "head_size", "dim_ffn", "dim_att", "ctx_len", "vocab_size", "head_size_divisor"}
    off = {"head_qk", "tiny_att_dim", "pos_emb", "dropout"}
    passed_over = {"tiny_att_layer", "with_cp", "text_num_head", "text_initialization", "precision"}
    for name, value in config.items():
        if name not in known | off | passed_over:
            nearest = get_close_matches(name, known, 1, 0.0)[0]
            raise InputError(f"published argument {name!r} is unknown; did you mean {nearest!r}?")
        if name in off and value:
            raise InputError(f"published argument {name!r} must be 0, as in every published model, not {value!r}")
    dim = config["n_embd"]
    if config.get("dim_att", dim) != dim or config.get("head_size_divisor", 8) != 8:
        raise InputError("published arguments dim_att and head_size_divisor must equal n_embd and 8")
    tower = TextTower(
        embed_dim=dim,
        depth=config["n_layer"],
        num_heads=dim // config.get("head_size", 64),
        mlp_ratio=config.get("dim_ffn", int(dim * 3.5) // 32 * 32) / dim,
        context_length=config.get("ctx_len", 77),
        vocab_size=config.get("vocab_size", 49408),
        device=device,
        dtype=dtype,
    )
    if state_dict is not None:
        ours = {published: own for own, published in published_text_names(tower).items()}
        load_strictly(tower, _renamed(tower, state_dict, ours), "the state dict")
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
    except KeyError as error:
        raise InputError(f"these are not RWKV-CLIP weights: {error.args[0]} is missing") from None
    embed_dim, patch_size = patch_weight.shape[0], patch_weight.shape[-1]
    image_depth = 1 + max(int(name.split(".")[2]) for name in state_dict if name.startswith("image_model.layers."))
    text_depth = 1 + max(int(name.split(".")[2]) for name in state_dict if name.startswith("text_model.blocks."))
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
