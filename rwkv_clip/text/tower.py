"""The text tower: token embedding, a stack of RWKV blocks, pooling over all positions."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rwkv_clip.text.rwkv6_bi import Rwkv6BiBlock
from vrwkv.errors import InputError

MIXERS: dict[str, Callable[..., nn.Module]] = {"rwkv6_bi": Rwkv6BiBlock}


class TextTower(nn.Module):
    """RWKV text encoder with the surface that open_clip expects of a text tower (arXiv 2406.06973).

    The embedding of a text is the mean over all `context_length` positions, padding included, of each position's
    L2-normalised features. There is no projection, mask or position embedding.

    Args:
        embed_dim: channels; also the width of the embedding.
        depth: number of blocks.
        num_heads: heads of the mixer.
        mlp_ratio: hidden width of the channel mix over `embed_dim`, rounded down to a multiple of 32.
        context_length: tokens per text; shorter input is padded with id 0.
        vocab_size: number of token ids.
        mixer: name of the block family, a key of `MIXERS`.
        device, dtype: of the parameters.

    Raises:
        InputError: an unknown mixer.
    """

    def __init__(
        self,
        embed_dim: int = 640,
        depth: int = 6,
        num_heads: int = 10,
        mlp_ratio: float = 3.5,
        context_length: int = 77,
        vocab_size: int = 49408,
        mixer: str = "rwkv6_bi",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if mixer not in MIXERS:
            nearest = get_close_matches(mixer, MIXERS, 1, 0.0)[0]
            raise InputError(f"text mixer {mixer!r} is unknown; did you mean {nearest!r}?")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.embed_dim = self.output_dim = embed_dim
        self.context_length, self.vocab_size = context_length, vocab_size
        self.output_tokens = False
        self.pool_type = "mean"
        self.grad_checkpointing = False
        # The small term makes up for a ratio of integers that was rounded down.
        hidden_dim = max(int(embed_dim * mlp_ratio + 1e-6) // 32 * 32, 32)
        self.token_embedding = nn.Embedding(vocab_size, embed_dim, **factory)
        self.norm_pre = nn.LayerNorm(embed_dim, **factory)
        self.blocks = nn.ModuleList(
            MIXERS[mixer](embed_dim, num_heads, hidden_dim, layer=layer, depth=depth, **factory)
            for layer in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, **factory)
        nn.init.uniform_(self.token_embedding.weight, -1e-4, 1e-4)
        self._round_to_bfloat16()

    @torch.no_grad()
    def _round_to_bfloat16(self) -> None:
        """The published tower starts from bfloat16 values; released decays still hold exactly these."""
        for parameter in self.parameters():
            parameter.copy_(parameter.bfloat16())

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True, impl: str = "inline") -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's convention exempts from weight decay beyond the one-dimensional ones."""
        exempt = ("token_embedding.weight", ".time_mix.bonus")
        return {name for name, _ in self.named_parameters() if name.endswith(exempt)}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that assign parameters to layers, for layer-wise learning rates."""
        return {"stem": r"^token_embedding|norm_pre", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm\.", (99999,))]}

    def layer_groups(self) -> list[list[nn.Module]]:
        """Modules from input to output: embedding, each block, final norm."""
        return [[self.token_embedding, self.norm_pre], *([block] for block in self.blocks), [self.norm]]

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze all but the last `unlocked_layers` groups of `layer_groups`; norms too unless told otherwise."""
        groups = self.layer_groups()
        for group in groups[: max(len(groups) - unlocked_layers, 0)]:
            for module in group:
                for part in module.modules():
                    keep = not freeze_layer_norm and isinstance(part, nn.LayerNorm | nn.GroupNorm)
                    for parameter in part.parameters(recurse=False):
                        parameter.requires_grad_(keep)

    def _run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False)
        return block(x)

    def _embed(self, text: Tensor) -> Tensor:
        if text.ndim != 2 or text.shape[1] > self.context_length:
            raise ValueError(f"text must be ids of shape (B, T ≤ {self.context_length}), not {tuple(text.shape)}")
        return self.norm_pre(self.token_embedding(text))

    def forward_features(self, text: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, C) features after the final norm."""
        x = self._embed(text)
        for block in self.blocks:
            x = self._run_block(block, x)
        return self.norm(x)

    def pool(self, features: Tensor) -> Tensor:
        """(B, T, C) features -> (B, C): mean over positions of the L2-normalised features."""
        return F.normalize(features, dim=-1, eps=1e-12).mean(1)

    def forward(self, text: Tensor) -> Tensor:
        """(B, T) token ids, padded with 0 to `context_length` -> (B, C) embeddings, not normalised."""
        text = F.pad(text, (0, max(self.context_length - text.shape[-1], 0)))
        return self.pool(self.forward_features(text))

    def forward_intermediates(
        self,
        text: Tensor,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NLC",
        output_extra_tokens: bool = False,
    ) -> dict[str, Any]:
        """Outputs of chosen blocks as open_clip's text towers give them: `text_intermediates`, `text_features`.

        Args:
            text: (B, T) token ids.
            indices: the last n blocks if an int, those listed if a list, all if None.
            stop_early: do not run blocks after the last one asked for.
            normalize_intermediates: apply the final norm to every output.
            intermediates_only: leave out the final embedding.
            output_fmt: "NLC", the only format of text.
            output_extra_tokens: accepted for open_clip's sake; there are none.
        """
        from timm.models._features import feature_take_indices

        if output_fmt != "NLC":
            raise ValueError(f"output_fmt must be 'NLC' for text, not {output_fmt!r}")
        wanted, last = feature_take_indices(len(self.blocks), indices)
        x = self._embed(F.pad(text, (0, max(self.context_length - text.shape[-1], 0))))
        outputs = []
        for index, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            x = self._run_block(block, x)
            if index in wanted:
                outputs.append(self.norm(x) if normalize_intermediates else x)
        result: dict[str, Any] = {"text_intermediates": outputs}
        if not intermediates_only:
            result["text_features"] = self.pool(self.norm(x))
        return result
