"""Outputs of inner blocks as features for other models: in timm's form, and in the published one for segmentation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from vrwkv.layers.large_inputs import reused_memory
from vrwkv.layers.packing import Grid


class BlockOutputs(nn.Module):
    """What a stack of blocks over a patch grid offers beside its final features; the base of `VisionRWKV`."""

    if TYPE_CHECKING:  # TorchScript reads annotations of classes, and knows no such types
        blocks: nn.ModuleList
        norm: nn.Module
        cls_token: nn.Parameter | None

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        raise NotImplementedError

    def _run_block(self, block: nn.Module, x: Tensor, grid: Grid) -> Tensor:
        raise NotImplementedError

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; given by the model."""
        raise NotImplementedError

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]] | dict[str, Any]:
        """Outputs of chosen blocks, as timm's vision transformers give them.

        Args:
            x: (B, in_chans, H, W) images.
            indices: the last n blocks if an int, those listed if a list, all if None.
            return_prefix_tokens: accepted for timm's sake; a class token here is a suffix and is left out.
            norm: apply the final norm to every output.
            stop_early: do not run blocks after the last one asked for.
            output_fmt: "NCHW" maps or "NLC" tokens.
            intermediates_only: leave out the final features.
            output_dict: return a dict with `image_intermediates` and `image_features`.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NLC', not '{output_fmt}'")
        wanted, last = feature_take_indices(len(self.blocks), indices)
        x, grid = self._embed(x)
        outputs: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            if index <= last or not stop_early:
                x = block(x, grid) if torch.jit.is_scripting() else self._run_block(block, x, grid)
            if index in wanted:
                tokens = self.norm(x) if norm else x
                tokens = tokens if self.cls_token is None else tokens[:, :-1]
                outputs.append(_to_map(tokens, grid) if output_fmt == "NCHW" else tokens)
        named: dict[str, Any] = {"image_intermediates": outputs}
        if intermediates_only:
            if output_dict:
                return named
            return outputs
        x = self.norm(x)
        if output_dict:
            named["image_features"] = x
            return named
        return x, outputs

    def forward_maps(self, x: Tensor, out_indices: int | Sequence[int] = -1) -> tuple[Tensor, ...]:
        """Feature maps under the published rule: the final norm is applied after the last block only.

        Args:
            x: (B, in_chans, H, W) images.
            out_indices: blocks to take, negative ones counted from the end.

        Returns:
            One (B, C, h, w) map per block asked for, in the order of the blocks.

        Raises:
            ValueError: an index beyond the blocks, or none at all.
        """
        depth = len(self.blocks)
        asked = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        bad = [index for index in asked if not -depth <= index < depth]
        if bad or not asked:
            raise ValueError(f"out_indices must lie between {-depth} and {depth - 1}, not {bad or asked}")
        wanted = {index % depth for index in asked}
        maps = []
        with reused_memory(x):
            x, grid = self._embed(x)
            for index, block in enumerate(self.blocks[: max(wanted) + 1]):
                x = self._run_block(block, x, grid)
                if index in wanted:
                    tokens = self.norm(x) if index == depth - 1 else x
                    maps.append(_to_map(tokens if self.cls_token is None else tokens[:, :-1], grid))
        return tuple(maps)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the blocks, and if asked the final norm and the classifier, that chosen outputs do not need."""
        wanted, last = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return wanted


def _to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()
