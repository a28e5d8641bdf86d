"""ViT-Adapter around a Vision-RWKV: maps at strides 4, 8, 16 and 32 for segmentation and detection."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrwkv.dense.interaction import Interaction
from vrwkv.dense.spatial_prior import SpatialPrior
from vrwkv.layers.deformable_attention import DeformableAttention
from vrwkv.layers.image_dtype import check_image_dtype
from vrwkv.models.vision_rwkv import VisionRWKV

STRIDES = (4, 8, 16, 32)
TAPS = ("segmentation", "detection")


class VisionRWKVAdapter(VisionRWKV):
    """`VisionRWKV` with the ViT-Adapter (arXiv 2205.08534) in the form of the released Vision-RWKV code.

    A convolutional pyramid runs beside the blocks and exchanges features with them by deformable attention four times.
    Images of any size work: they are padded to multiples of 32 at the right and bottom, and the maps cropped again.
    Published adapters load with `vrwkv.load_published`; the weights of a bare backbone with
    `load_state_dict(..., strict=False)`.

    Args:
        img_size, patch_size, in_chans, embed_dim, depth and further ones of `VisionRWKV`: the backbone, without
            classifier and final norm. The patch size is 16.
        deform_num_heads: heads of the deformable attention.
        deform_ratio: width of its values over `embed_dim`.
        n_points: sampling points of a head and level.
        conv_inplane: channels of the convolutional stem.
        cffn_ratio: hidden width of the extractors' feed-forward over `embed_dim`.
        interaction_indexes: (first, last) block of each stage, both included; None for four equal ones.
        gamma_init: starting value of the injectors' gamma.
        add_vit_feature: add the tokens to the pyramid at the end.
        taps: which tokens are added: "segmentation" those after each stage, "detection" the last ones to all maps.
    """

    def __init__(
        self,
        *args: Any,
        deform_num_heads: int = 6,
        deform_ratio: float = 1.0,
        n_points: int = 4,
        conv_inplane: int = 64,
        cffn_ratio: float = 0.25,
        interaction_indexes: Sequence[Sequence[int]] | None = None,
        gamma_init: float = 0.0,
        add_vit_feature: bool = True,
        taps: str = "segmentation",
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if taps not in TAPS:
            raise ValueError(f"taps must be one of {TAPS}, not {taps!r}")
        super().__init__(*args, **{**kwargs, "num_classes": 0, "final_norm": False, "drop_path_rate": drop_path_rate})
        if self.patch_embed.patch_size != (16, 16):
            raise ValueError(f"the adapter needs patch_size 16, not {self.patch_embed.patch_size}")
        if self.cls_token is not None:
            raise ValueError("the adapter needs a backbone without class token")
        dim = self.embed_dim
        if dim % deform_num_heads or int(dim * deform_ratio) % deform_num_heads:
            raise ValueError(
                f"deform_num_heads must divide {dim} and {int(dim * deform_ratio)}, not {deform_num_heads}"
            )
        self.stages = _stages(interaction_indexes, len(self.blocks))
        self.add_vit_feature, self.taps = add_vit_feature, taps
        self.level_embed = nn.Parameter(torch.zeros(3, dim))
        self.spm = SpatialPrior(self.in_chans, conv_inplane, dim)
        self.interactions = nn.Sequential(
            *(
                Interaction(
                    dim,
                    deform_num_heads,
                    num_points=n_points,
                    ratio=deform_ratio,
                    mlp_ratio=cffn_ratio,
                    drop_path=drop_path_rate,
                    init_values=gamma_init,
                    extra_extractors=2 if index == len(self.stages) - 1 else 0,
                )
                for index in range(len(self.stages))
            )
        )
        self.up = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.BatchNorm2d(dim) for _ in STRIDES)
        self.init_adapter_weights()

    @torch.no_grad()
    def init_adapter_weights(self) -> None:
        """Starting values of everything beside the backbone, as released."""
        nn.init.normal_(self.level_embed)
        for part in (self.spm, self.interactions, self.up):
            for module in part.modules():
                _init_adapter_module(module)
        for module in self.interactions.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """(B, in_chans, H, W) images -> maps (B, embed_dim, ⌈H / s⌉, ⌈W / s⌉) for the strides s = 4, 8, 16, 32.

        Raises:
            ValueError: images of another dtype than the weights (outside autocast); in training, one image of at most
                32 × 32 pixels, which leaves batch norm nothing to average.
        """
        height, width = x.shape[2:]
        check_image_dtype(x, self.patch_embed.proj.weight)
        self._check_batch_statistics(x)
        x = F.pad(x, (0, (32 - width % 32) % 32, 0, (32 - height % 32) % 32))
        first, *pyramid = self.spm(x)
        shapes = [(level.shape[2], level.shape[3]) for level in pyramid]
        c = torch.cat(
            [level.flatten(2).transpose(1, 2) + own for level, own in zip(pyramid, self.level_embed, strict=True)],
            dim=1,
        )
        tokens, grid = self._embed(x)
        tapped = []
        for interaction, stage in zip(self.interactions, self.stages, strict=True):
            tokens, c = interaction(tokens, c, partial(self._run_stage, stage, grid), shapes, grid)
            tapped.append(tokens.transpose(1, 2).unflatten(2, grid))
        levels = c.split([level_height * level_width for level_height, level_width in shapes], dim=1)
        maps = [level.transpose(1, 2).unflatten(2, shape) for level, shape in zip(levels, shapes, strict=True)]
        maps = [self.up(maps[0]) + first, *maps]
        if self.add_vit_feature:
            tapped = tapped if self.taps == "segmentation" else [tapped[-1]] * len(maps)
            maps = [each + _resized(own, each) for each, own in zip(maps, tapped, strict=True)]
        norms = (self.norm1, self.norm2, self.norm3, self.norm4)
        return tuple(
            norm(each)[:, :, : -(-height // stride), : -(-width // stride)]
            for norm, each, stride in zip(norms, maps, STRIDES, strict=True)
        )

    def _check_batch_statistics(self, x: Tensor) -> None:
        norms = (self.spm.conv4[1], self.norm4)
        # Not those that look at all processes together (SyncBatchNorm), which may well have more.
        if not any(isinstance(norm, nn.BatchNorm2d) and norm.training for norm in norms):
            return
        stride = STRIDES[-1]
        if x.shape[0] == 1 and x.shape[2] <= stride and x.shape[3] <= stride:
            raise ValueError(
                f"one image of {x.shape[2]} × {x.shape[3]} pixels (height × width) is too little to train on: batch "
                f"norm at stride {stride} needs more than one value; give more images, a side above {stride} pixels, "
                "or put the batch norms into eval mode"
            )

    def _run_stage(self, stage: tuple[int, int], grid: tuple[int, int], x: Tensor) -> Tensor:
        for block in self.blocks[stage[0] : stage[1] + 1]:
            x = self._run_block(block, x, grid)
        return x


def _stages(indexes: Sequence[Sequence[int]] | None, depth: int) -> tuple[tuple[int, int], ...]:
    """(first, last) block of each of four stages that cover all blocks."""
    if indexes is None:
        bounds = [depth * part // len(STRIDES) for part in range(len(STRIDES) + 1)]
        indexes = [(start, end - 1) for start, end in pairwise(bounds)]
    stages = tuple((int(first), int(last)) for first, last in indexes)
    covered = [block for first, last in stages for block in range(first, last + 1)]
    if len(stages) != len(STRIDES) or covered != list(range(depth)):
        raise ValueError(
            f"interaction_indexes must be {len(STRIDES)} pairs (first, last) that cover the blocks 0 to {depth - 1} in "
            f"order, not {[list(stage) for stage in stages]}"
        )
    return stages


def _resized(tokens: Tensor, like: Tensor) -> Tensor:
    if tokens.shape[2:] == like.shape[2:]:
        return tokens
    return F.interpolate(tokens, size=like.shape[2:], mode="bilinear", align_corners=False)


def _init_adapter_module(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, (2.0 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
