"""Vision-RWKV: patch tokens, a stack of RWKV blocks, pooling. Behaves like timm's vision transformers."""

from typing import Any

import torch
from timm.layers import resample_patch_embed, to_2tuple, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vrwkv.layers import Block, PatchEmbed
from vrwkv.layers.large_inputs import reused_memory
from vrwkv.layers.packing import Grid
from vrwkv.models.block_outputs import BlockOutputs
from vrwkv.models.finite_pixels import check_finite_pixels
from vrwkv.models.model_arguments import record_input_size
from vrwkv.models.native_resolution import NativeResolution
from vrwkv.models.position import resample_position_embedding
from vrwkv.models.published import accept_published_keys

POOLS = ("", "avg", "max", "avgmax", "token")
WEIGHT_INITS = ("published", "torch", "skip")


class VisionRWKV(BlockOutputs, NativeResolution):
    """Image backbone and classifier with linear-time token mixing (arXiv 2403.02308).

    Any image size works: the right and bottom are padded to whole patches, and the position embedding is resized
    (bicubic) when the grid differs from that of `img_size`. Arguments are named as in timm's vision transformers; the
    published names are given in brackets.

    Args:
        img_size: size in pixels that the position embedding belongs to.
        patch_size: pixels.
        in_chans: input channels [in_channels].
        num_classes: outputs of the classifier; 0 leaves it out.
        global_pool: "avg", "max", "avgmax", "token" (with `class_token`), or "" for no pooling.
        embed_dim: channels of a token [embed_dims].
        depth: number of blocks.
        num_heads: heads of mixer "bi_wkv6"; by default heads of 64 channels.
        mlp_ratio: hidden width of the channel mix over `embed_dim` [hidden_rate].
        mixer: "bi_wkv" (VRWKV) or "bi_wkv6" (VRWKV6, RWKV-CLIP).
        init_values: starting value of the layer scale; None leaves it out.
        drop_rate: dropout before the classifier.
        pos_drop_rate: dropout after the position embedding [drop_rate].
        drop_path_rate: stochastic depth of the last block; earlier ones less, linearly.
        channel_gamma, shift_pixel, key_norm, init_mode, formula: see `vrwkv.layers.SpatialMix`.
        post_norm: normalise each branch's output instead of its input.
        final_norm: normalise after the last block.
        class_token: append a learnt token after the patches, "bi_wkv6" only [with_cls_token].
        head_hidden_dim: width of a Linear-Tanh-Linear classifier, as in VRWKV-L; None for one linear layer.
        dynamic_img_size: accept images of another size than `img_size`.
        check_finite: refuse images with NaN or infinite values, at the price of one look at every pixel.
        weight_init: matrices as published (normal, deviation 0.02), as torch initialises them ("torch"), or "skip".
        backend: backend of the mixer's op; by default the best that can run.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        mixer: str = "bi_wkv",
        init_values: float | None = None,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        channel_gamma: float = 0.25,
        shift_pixel: int = 1,
        init_mode: str = "fancy",
        post_norm: bool = False,
        key_norm: bool = False,
        final_norm: bool = True,
        class_token: bool = False,
        head_hidden_dim: int | None = None,
        formula: str = "paper",
        dynamic_img_size: bool = True,
        check_finite: bool = False,
        weight_init: str = "published",
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if class_token and mixer != "bi_wkv6":
            raise ValueError(f"class_token needs mixer 'bi_wkv6', not {mixer!r}")
        if weight_init not in WEIGHT_INITS:
            raise ValueError(f"weight_init must be one of {WEIGHT_INITS}, not {weight_init!r}")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, not {depth}")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.global_pool = self._checked_pool(global_pool, class_token)
        self.num_features = self.embed_dim = self.head_hidden_size = embed_dim
        self.head_hidden_dim = head_hidden_dim
        self.in_chans = in_chans
        self.num_prefix_tokens = 0
        self.dynamic_img_size = dynamic_img_size
        self.check_finite = check_finite
        self.weight_init = weight_init
        self.grad_checkpointing = False

        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim, not dynamic_img_size, **factory)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches, embed_dim, **factory))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim, **factory)) if class_token else None
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.norm_pre = nn.LayerNorm(embed_dim, **factory)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                mixer=mixer,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                layer=layer,
                depth=depth,
                drop_path=drop_path_rate * layer / max(depth - 1, 1),
                init_values=init_values,
                shift_pixel=shift_pixel,
                channel_gamma=channel_gamma,
                key_norm=key_norm,
                post_norm=post_norm,
                init_mode=init_mode,
                formula=formula,
                backend=backend,
                **factory,
            )
            for layer in range(depth)
        )
        self.feature_info = [
            {"module": f"blocks.{layer}", "num_chs": embed_dim, "reduction": self.patch_embed.feat_ratio()}
            for layer in range(depth)
        ]
        self.norm = nn.LayerNorm(embed_dim, **factory) if final_norm else nn.Identity()
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self._build_head(**factory)
        self.init_weights(needs_reset=False)
        self.register_load_state_dict_pre_hook(accept_published_keys)

    @staticmethod
    def _checked_pool(global_pool: str, class_token: bool) -> str:
        if global_pool not in POOLS:
            raise ValueError(f"global_pool must be one of {POOLS}, not {global_pool!r}")
        if global_pool == "token" and not class_token:
            raise ValueError("global_pool 'token' needs class_token=True; without one use 'avg'")
        return global_pool

    def _build_head(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        if self.num_classes == 0:
            return nn.Identity()
        if self.head_hidden_dim is None:
            return nn.Linear(self.embed_dim, self.num_classes, **factory)
        return nn.Sequential(
            nn.Linear(self.embed_dim, self.head_hidden_dim, **factory),
            nn.Tanh(),
            nn.Linear(self.head_hidden_dim, self.num_classes, **factory),
        )

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """Give every parameter its starting value, as after construction; also for a model moved off the meta device.

        Args:
            needs_reset: False leaves everything that starts as its module's constructor set it, and changes only the
                matrices that `weight_init` "published" starts otherwise: normal with deviation 0.02 (cut at ±2),
                biases 0.
        """
        if needs_reset:
            for start_at_zero in (self.pos_embed, self.cls_token):
                if start_at_zero is not None:
                    nn.init.zeros_(start_at_zero)
            for module in self.modules():
                for method in ("reset_parameters", "reset_mix_parameters"):
                    if hasattr(module, method):
                        getattr(module, method)()
        if self.weight_init == "published":
            self.apply(_init_linear)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's convention exempts from weight decay beyond the one-dimensional ones."""
        exempt = ("pos_embed", "cls_token", ".spatial_mix.bonus")
        return {name for name, _ in self.named_parameters() if name.endswith(exempt)}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that assign parameters to layers, for layer-wise learning rates."""
        return {
            "stem": r"^cls_token|pos_embed|patch_embed|norm_pre",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm\.", (99999,))],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classifier, an Identity when there is none."""
        return self.head

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one for `num_classes` (0: none) and, if given, the pooling."""
        if global_pool is not None:
            self.global_pool = self._checked_pool(global_pool, self.cls_token is not None)
        self.num_classes = num_classes
        self.head = self._build_head(self.pos_embed.device, self.pos_embed.dtype)
        if self.weight_init == "published":
            self.head.apply(_init_linear)
        self.head.train(self.training)

    @torch.jit.ignore
    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | tuple[int, int] | None = None
    ) -> None:
        """Move position embedding, and patch weights if `patch_size` changes, to another native size."""
        old_grid = self.patch_embed.grid_size
        if patch_size is not None and to_2tuple(patch_size) != self.patch_embed.patch_size:
            new_patch = to_2tuple(patch_size)
            proj = self.patch_embed.proj
            with torch.no_grad():
                proj.weight = nn.Parameter(
                    resample_patch_embed(proj.weight, list(new_patch)), requires_grad=proj.weight.requires_grad
                )
            proj.kernel_size = proj.stride = self.patch_embed.patch_size = new_patch
            for info in self.feature_info:
                info["reduction"] = self.patch_embed.feat_ratio()
        if img_size is not None:
            self.patch_embed.img_size = self.moved_to_size = to_2tuple(img_size)
        if self.patch_embed.grid_size != old_grid:
            with torch.no_grad():
                resized = resample_position_embedding(self.pos_embed, old_grid, self.patch_embed.grid_size)
            self.pos_embed = nn.Parameter(resized.contiguous(), requires_grad=self.pos_embed.requires_grad)
        record_input_size(self, self.patch_embed.img_size, self.patch_embed.patch_size)

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if self.check_finite:
            check_finite_pixels(x)
        x, grid = self.patch_embed(x)
        x = x + resample_position_embedding(self.pos_embed, self.patch_embed.grid_size, grid)
        if self.cls_token is not None:
            x = torch.cat([x, self.cls_token.expand(x.shape[0], -1, -1)], dim=1)
        return self.norm_pre(self.pos_drop(x)), grid

    def _run_block(self, block: nn.Module, x: Tensor, grid: Grid) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, grid, use_reentrant=False)
        return block(x, grid)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) images -> (B, T, C) tokens after the final norm; a class token comes last."""
        if torch.jit.is_scripting():
            x, grid = self._embed(x)
            for block in self.blocks:
                x = block(x, grid)
        else:
            with reused_memory(x):
                x, grid = self._embed(x)
                for block in self.blocks:
                    x = self._run_block(block, x, grid)
        return self.norm(x)

    def pool(self, x: Tensor) -> Tensor:
        """(B, T, C) tokens -> (B, C) by `global_pool`; a class token is left out of means and maxima."""
        if self.global_pool == "":
            return x
        if self.global_pool == "token":
            return x[:, -1]
        patches = x if self.cls_token is None else x[:, :-1]
        if self.global_pool == "max":
            return patches.amax(1)
        mean = patches.mean(1)
        return mean if self.global_pool == "avg" else 0.5 * (mean + patches.amax(1))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, T, C) tokens -> (B, num_classes), or, before the classifier, (B, head_hidden_size) pooled features."""
        return self.head_of_pooled(self.pool(x), pre_logits)

    def head_of_pooled(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C) pooled features -> (B, num_classes), or, before the classifier, (B, head_hidden_size)."""
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) images -> (B, num_classes), or pooled features (B, C) without a classifier.

        A list of images (in_chans, H, W) of different sizes goes through as one packed batch, see `forward_packed`.
        """
        if not torch.jit.is_scripting() and isinstance(x, (list, tuple)):
            return self.forward_packed(x)
        return self.forward_head(self.forward_features(x))


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02, a=-2.0, b=2.0)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class VisionRWKV6(VisionRWKV):
    """`VisionRWKV` with the mixer "bi_wkv6"; arguments are the same."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"mixer": "bi_wkv6", **kwargs})
