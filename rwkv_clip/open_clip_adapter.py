"""RWKV towers inside open_clip: the one place that reaches into it.

open_clip 3 builds its towers in two private functions without a registry. Both are wrapped here: a `text_cfg` with
`rwkv_mixer`, or a `vision_cfg` with `timm_model_kwargs`, is built by us, anything else by open_clip as before.
"""

from functools import wraps
from pathlib import Path
from typing import Any

import open_clip
import open_clip.model
import timm
import torch
from open_clip.timm_model import TimmModel
from timm.layers import to_2tuple
from torch import nn

from rwkv_clip.text import TextTower
from vrwkv.errors import InputError

MODEL_CONFIGS = Path(__file__).parent / "model_configs"


class ImageTower(TimmModel):
    """open_clip's adapter around a timm model, for models built with arguments of their own.

    Args:
        model_name: a name known to `timm.create_model`.
        embed_dim: width of the image embedding.
        image_size: pixels.
        pool: the model's own pooling.
        proj: "none" to use pooled features as they are, "linear" to project them to `embed_dim`.
        drop_path: stochastic depth of the last block.
        pretrained: start from timm's weights.
        model_kwargs: passed to the model's constructor.

    Raises:
        InputError: without a projection, features of another width than `embed_dim`; another kind of projection.
    """

    def __init__(
        self,
        model_name: str,
        embed_dim: int,
        image_size: int | tuple[int, int] = 224,
        pool: str = "avg",
        proj: str = "none",
        drop_path: float | None = None,
        pretrained: bool = False,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.image_size = to_2tuple(image_size)
        kwargs = dict(model_kwargs or {})
        if drop_path is not None:
            kwargs["drop_path_rate"] = drop_path
        trunk: Any = timm.create_model(model_name, pretrained, num_classes=0, global_pool=pool, **kwargs)
        if hasattr(trunk, "set_input_size"):
            trunk.set_input_size(self.image_size)
        self.trunk, self.head = trunk, nn.Sequential()
        width = trunk.num_features
        if proj not in ("none", "linear"):
            raise InputError(f"timm_proj must be 'none' or 'linear', not {proj!r}")
        if proj == "linear":
            self.head.add_module("proj", nn.Linear(width, embed_dim, bias=False))
        elif width != embed_dim:
            raise InputError(
                f"image tower {model_name} has features of width {width}, but embed_dim is {embed_dim}; "
                "make them equal or project linearly"
            )

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """What the trunk exempts from weight decay; open_clip's adapter does not ask it."""
        exempt = getattr(self.trunk, "no_weight_decay", set)
        return {f"trunk.{name}" for name in exempt()}


def _build_image_tower(embed_dim: int, vision_cfg: dict[str, Any]) -> ImageTower:
    names = {
        "timm_model_name": "model_name",
        "image_size": "image_size",
        "timm_pool": "pool",
        "timm_proj": "proj",
        "timm_drop_path": "drop_path",
        "timm_model_pretrained": "pretrained",
        "timm_model_kwargs": "model_kwargs",
    }
    if unknown := set(vision_cfg) - set(names):
        raise InputError(
            f"vision_cfg has unknown keys {sorted(unknown)}; with timm_model_kwargs it knows {sorted(names)}"
        )
    if "timm_model_name" not in vision_cfg:
        raise InputError("vision_cfg lacks timm_model_name, the model that timm_model_kwargs are for")
    return ImageTower(embed_dim=embed_dim, **{names[key]: value for key, value in vision_cfg.items()})


def _build_text_tower(embed_dim: int, text_cfg: dict[str, Any]) -> TextTower:
    known = {"rwkv_mixer", "context_length", "vocab_size", "width", "layers", "heads", "mlp_ratio", "tokenizer_kwargs"}
    if unknown := set(text_cfg) - known:
        raise InputError(f"text_cfg has unknown keys {sorted(unknown)}; an RWKV text tower knows {sorted(known)}")
    if missing := {"width", "layers", "heads"} - set(text_cfg):
        raise InputError(f"text_cfg lacks {sorted(missing)}, which an RWKV text tower needs")
    if text_cfg["width"] != embed_dim:
        raise InputError(f"text_cfg width {text_cfg['width']} must equal embed_dim {embed_dim}: there is no projection")
    return TextTower(
        embed_dim=embed_dim,
        depth=text_cfg["layers"],
        num_heads=text_cfg["heads"],
        mlp_ratio=text_cfg.get("mlp_ratio", 3.5),
        context_length=text_cfg.get("context_length", 77),
        vocab_size=text_cfg.get("vocab_size", 49408),
        mixer=text_cfg["rwkv_mixer"],
    )


def register() -> None:
    """Teach open_clip our towers and the names RWKV-CLIP-B-32 and RWKV-CLIP-B-16. Repeated calls change nothing."""
    if getattr(open_clip.model._build_text_tower, "knows_rwkv", False):
        return
    build_text, build_vision = open_clip.model._build_text_tower, open_clip.model._build_vision_tower

    @wraps(build_text)
    def build_text_tower(embed_dim: int, text_cfg: Any, *args: Any, **kwargs: Any) -> nn.Module:
        if isinstance(text_cfg, dict) and "rwkv_mixer" in text_cfg:
            return _build_text_tower(embed_dim, text_cfg)
        return build_text(embed_dim, text_cfg, *args, **kwargs)

    @wraps(build_vision)
    def build_vision_tower(embed_dim: int, vision_cfg: Any, *args: Any, **kwargs: Any) -> nn.Module:
        if isinstance(vision_cfg, dict) and "timm_model_kwargs" in vision_cfg:
            return _build_image_tower(embed_dim, vision_cfg)
        return build_vision(embed_dim, vision_cfg, *args, **kwargs)

    build_text_tower.knows_rwkv = True  # type: ignore[attr-defined]
    open_clip.model._build_text_tower = build_text_tower
    open_clip.model._build_vision_tower = build_vision_tower
    open_clip.add_model_config(MODEL_CONFIGS)
