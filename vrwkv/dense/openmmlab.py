"""What the OpenMMLab toolkits expect of a backbone beyond maps; imports none of them.

`vrwkv.dense.mmseg` and `vrwkv.dense.mmdet` register these classes.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from typing import Any

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from vrwkv.dense.adapter import VisionRWKVAdapter
from vrwkv.dense.backbone_weights import frozen_parts, load_backbone
from vrwkv.errors import InputError
from vrwkv.models.vision_rwkv import VisionRWKV

ALIASES = {
    "embed_dims": "embed_dim",
    "hidden_rate": "mlp_ratio",
    "in_channels": "in_chans",
    "drop_rate": "pos_drop_rate",
    "num_head": "num_heads",
}
"""Published spellings of the backbones' arguments."""


class _OpenMMLabBackbone(VisionRWKV):
    """Freezing, starting weights and modes as OpenMMLab's backbones have them; the first base of the classes below.

    Args:
        frozen_stages: the patch embedding (from 0 on) and so many blocks keep their weights and stay in eval mode;
            -1: none.
        norm_eval: keep batch norms (the adapter's) in eval mode while training.
        with_cp: recompute each block in the backward pass.
        init_cfg: `dict(type="Pretrained", checkpoint=..., prefix="backbone.")`, published weights or ours.
        pretrained: short for that, a file.
    """

    def _configure(
        self,
        frozen_stages: int,
        norm_eval: bool,
        with_cp: bool,
        init_cfg: Mapping[str, Any] | None,
        pretrained: str | None,
    ) -> None:
        if pretrained is not None and init_cfg is not None:
            raise ValueError("give init_cfg or pretrained, not both")
        if pretrained is not None:
            init_cfg = {"type": "Pretrained", "checkpoint": pretrained}
        if init_cfg is not None and init_cfg.get("type") != "Pretrained":
            raise ValueError(f"init_cfg of this backbone must have type 'Pretrained', not {init_cfg.get('type')!r}")
        if not -1 <= frozen_stages <= len(self.blocks):
            raise ValueError(f"frozen_stages must lie between -1 and {len(self.blocks)}, not {frozen_stages}")
        self.init_cfg, self.frozen_stages, self.norm_eval = init_cfg, frozen_stages, norm_eval
        self.set_grad_checkpointing(with_cp)
        for module in frozen_parts(self, frozen_stages):
            module.requires_grad_(False)
        if frozen_stages >= 0:
            self.pos_embed.requires_grad_(False)

    def init_weights(self, needs_reset: bool | None = None) -> None:
        """mmengine's call, without an argument, loads `init_cfg`; with one, as `VisionRWKV.init_weights`."""
        if needs_reset is not None:
            super().init_weights(needs_reset)
        elif self.init_cfg is not None:
            load_backbone(self, self.init_cfg["checkpoint"], self.init_cfg.get("prefix"))

    def train(self, mode: bool = True) -> Any:
        """As `nn.Module.train`; what is frozen stays in eval mode."""
        super().train(mode)
        for module in frozen_parts(self, self.frozen_stages):
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


class PlainBackbone(_OpenMMLabBackbone):
    """`vrwkv.models.VisionRWKV` with maps (B, embed_dim, H / 16, W / 16) of the blocks `out_indices`.

    Args:
        out_indices: blocks to take, negative ones counted from the end; the final norm follows the last one only.
        frozen_stages, norm_eval, with_cp, init_cfg, pretrained: see `_OpenMMLabBackbone`.
        kwargs: of `VisionRWKV`, also in their published spelling (embed_dims, hidden_rate, ...).
    """

    def __init__(
        self,
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: Mapping[str, Any] | None = None,
        pretrained: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**_arguments(kwargs, (VisionRWKV,)), "num_classes": 0})
        self.out_indices = out_indices
        self._configure(frozen_stages, norm_eval, with_cp, init_cfg, pretrained)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """(B, in_chans, H, W) -> one map for each of `out_indices`, in the order of the blocks."""
        return self.forward_maps(x, self.out_indices)


class PlainBackbone6(PlainBackbone):
    """`PlainBackbone` with the mixer bi_wkv6."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"mixer": "bi_wkv6", **kwargs})


class AdapterBackbone(_OpenMMLabBackbone, VisionRWKVAdapter):
    """`vrwkv.dense.VisionRWKVAdapter`: four maps, strides 4 to 32.

    Args:
        frozen_stages, norm_eval, with_cp, init_cfg, pretrained: see `_OpenMMLabBackbone`.
        out_indices: which of the four maps to give.
        kwargs: of `VisionRWKVAdapter`, also in their published spelling.
    """

    def __init__(
        self,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: Mapping[str, Any] | None = None,
        pretrained: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**_arguments(kwargs, (VisionRWKVAdapter, VisionRWKV)))
        if not out_indices or not all(0 <= index < 4 for index in out_indices):
            raise ValueError(f"out_indices of the adapter must lie between 0 and 3, not {list(out_indices)}")
        self.out_indices = tuple(out_indices)
        self._configure(frozen_stages, norm_eval, with_cp, init_cfg, pretrained)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """(B, in_chans, H, W) -> the maps of `out_indices`."""
        maps = super().forward(x)
        return tuple(maps[index] for index in self.out_indices)


def _arguments(given: Mapping[str, Any], classes: Sequence[type]) -> dict[str, Any]:
    """Our names of `given`. Raises an InputError that names the nearest for an unknown one."""
    known = [
        name for owner in classes for name in signature(owner).parameters if name not in ("self", "args", "kwargs")
    ]
    arguments = {}
    for name, value in given.items():
        own = ALIASES.get(name, name)
        if own not in known:
            near = get_close_matches(name, [*known, *ALIASES], 1, 0.0)
            raise InputError(f"the backbone has no argument {name!r}; did you mean {near[0]!r}?")
        arguments[own] = value
    return arguments
