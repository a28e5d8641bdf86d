"""Masked autoencoder on Vision-RWKV: the encoder sees a quarter of the patches, a small decoder paints the rest."""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vrwkv.errors import InputError
from vrwkv.layers import Block, SpatialMix6
from vrwkv.models import VisionRWKV
from vrwkv.models.position import resample_position_embedding
from vrwkv.objectives.masked_tokens import KeptTokens, accept_kept_tokens, random_kept_tokens


def sine_cosine_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """(1, height · width, dim) float32: sines and cosines of the row in half of the channels, then of the column.

    Fixed positions of MAE (arXiv 2111.06377, section 4): frequencies 10000^(-4i/dim), i < dim/4.

    Raises:
        ValueError: dim is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"sine-cosine positions need a width that is a multiple of 4, not {dim}")
    frequency = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = (torch.arange(side, dtype=torch.float64)[:, None] * frequency for side in grid)
    rows = torch.cat([row.sin(), row.cos()], 1)[:, None].expand(-1, grid[1], -1)
    columns = torch.cat([column.sin(), column.cos()], 1)[None].expand(grid[0], -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1)[None].float()


class MaskedAutoencoder(nn.Module):
    """MAE (arXiv 2111.06377) with RWKV blocks.

    The encoder is a `VisionRWKV` with its own parameters and names, so its state dict is that of a classifier's trunk.
    Positions are added once, before tokens are hidden; those that are kept stay in raster order; the token shift looks
    at the true neighbours on the grid and sees zero where they are hidden; Bi-WKV runs over the kept tokens with their
    number as T. The decoder fills the gaps with a learnt token, adds fixed positions and runs over the whole grid.

    Args:
        encoder: the backbone; its classifier, if any, is not used. Its positions start as sines and cosines.
        mask_ratio: share of patches to hide.
        decoder_dim: channels of the decoder, a multiple of 4.
        decoder_depth: number of its blocks, of the encoder's kind.

    Raises:
        InputError: an encoder with a class token, or sizes that do not fit.
    """

    def __init__(
        self, encoder: VisionRWKV, *, mask_ratio: float = 0.75, decoder_dim: int = 512, decoder_depth: int = 8
    ) -> None:
        super().__init__()
        if encoder.cls_token is not None:
            raise InputError("a masked autoencoder needs an encoder without a class token")
        if decoder_dim % 4 or encoder.embed_dim % 4:
            raise InputError(f"widths must be multiples of 4, not {encoder.embed_dim} (encoder) and {decoder_dim}")
        if decoder_depth < 1 or not 0 < mask_ratio < 1:
            raise InputError(
                f"the decoder needs at least one block and a mask ratio in (0, 1), not {decoder_depth} and {mask_ratio}"
            )
        self.encoder, self.mask_ratio, self.grad_checkpointing = encoder, mask_ratio, False
        accept_kept_tokens(encoder.blocks)
        heads = isinstance(encoder.blocks[0].spatial_mix, SpatialMix6)
        self.decoder_embed = nn.Linear(encoder.embed_dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(decoder_dim))
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_dim, mixer="bi_wkv6" if heads else "bi_wkv", layer=layer, depth=decoder_depth)
            for layer in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        patch_height, patch_width = encoder.patch_embed.patch_size
        self.decoder_head = nn.Linear(decoder_dim, encoder.in_chans * patch_height * patch_width)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """MAE's starting values: matrices Xavier-uniform (the patch embedding's as one), sine-cosine positions."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        patches = self.encoder.patch_embed.proj.weight
        bound = math.sqrt(6 / (patches.shape[0] + patches[0].numel()))
        nn.init.uniform_(patches, -bound, bound)
        nn.init.normal_(self.mask_token, std=0.02)
        self.encoder.pos_embed.copy_(sine_cosine_positions(self.encoder.patch_embed.grid_size, self.encoder.embed_dim))

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's convention exempts from weight decay beyond the one-dimensional ones."""
        decoder = {name for name, _ in self.decoder_blocks.named_parameters(prefix="decoder_blocks")}
        return {
            *(f"encoder.{name}" for name in self.encoder.no_weight_decay()),
            *(name for name in decoder if name.endswith(".spatial_mix.bonus")),
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def forward(self, images: Tensor, kept: KeptTokens | None = None) -> dict[str, Tensor]:
        """Paint the hidden patches.

        Args:
            images: (B, channels, H, W).
            kept: what the encoder sees; by default drawn by torch's global generator.

        Returns:
            "prediction" (B, T, channels · P · Q), the pixels of every patch as `extract_patches` orders them; "hidden"
            (B, T) bool.
        """
        tokens, kept = self._encode(images, kept)
        x = kept.scatter(self.decoder_embed(tokens), self.mask_token)
        x = x + sine_cosine_positions(kept.grid, x.shape[2]).to(x)
        for block in self.decoder_blocks:
            x = self._run(block, x, kept.grid)
        return {"prediction": self.decoder_head(self.decoder_norm(x)), "hidden": kept.hidden()}

    def encode(self, images: Tensor, kept: KeptTokens) -> Tensor:
        """(B, channels, H, W) images and what is kept of them -> (B, K, C) features of the kept tokens."""
        return self._encode(images, kept)[0]

    def _encode(self, images: Tensor, kept: KeptTokens | None) -> tuple[Tensor, KeptTokens]:
        encoder = self.encoder
        x, grid = encoder.patch_embed(images)
        x = x + resample_position_embedding(encoder.pos_embed, encoder.patch_embed.grid_size, grid)
        if kept is None:
            kept = random_kept_tokens(x.shape[0], grid, self.mask_ratio, x.device)
        x = encoder.norm_pre(encoder.pos_drop(kept.select(x)))
        for block in encoder.blocks:
            x = self._run(block, x, kept)
        return encoder.norm(x), kept

    def _run(self, block: nn.Module, x: Tensor, place: tuple[int, int] | KeptTokens) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, place, use_reentrant=False)
        return block(x, place)
