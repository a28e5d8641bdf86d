"""The names that `timm.create_model` knows after `import vrwkv`."""

from contextlib import nullcontext
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from vrwkv.models.containers import old_containers
from vrwkv.models.published import checkpoint_filter_fn
from vrwkv.models.published_files import CLASSIFIERS, IMAGE_TEXT
from vrwkv.models.vision_rwkv import VisionRWKV

__all__ = [
    "rwkv_clip_base_patch16_224",
    "rwkv_clip_base_patch32_224",
    "vrwkv6_base_patch16_224",
    "vrwkv6_small_patch16_224",
    "vrwkv6_tiny_patch16_224",
    "vrwkv_base_patch16_224",
    "vrwkv_large_patch16_384",
    "vrwkv_small_patch16_224",
    "vrwkv_tiny_patch16_224",
]


def _cfg(size: int = 224, crop_pct: float = 0.875, **kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, size, size),
        "pool_size": None,
        "crop_pct": crop_pct,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
        "origin_url": "https://github.com/OpenGVLab/Vision-RWKV",
        "paper_ids": "arXiv:2403.02308",
        **kwargs,
    }


def _clip_cfg(**kwargs: Any) -> dict[str, Any]:
    return _cfg(
        num_classes=0,
        crop_pct=1.0,
        mean=OPENAI_CLIP_MEAN,
        std=OPENAI_CLIP_STD,
        license="mit",
        origin_url="https://github.com/deepglint/RWKV-CLIP",
        paper_ids="arXiv:2406.06973",
        **kwargs,
    )


# How the released weights differ from an ImageNet-1k classifier at 224 pixels.
_SETTINGS: dict[str, dict[str, Any]] = {
    "vrwkv_l_22kto1k_384.pth": {"size": 384, "crop_pct": 1.0, "classifier": "head.2"},
    "vrwkv_l_in22k_192.pth": {"size": 192, "crop_pct": 1.0, "classifier": "head.2", "num_classes": 21841},
}


def _hub(repository: str, filename: str) -> dict[str, Any]:
    return {"hf_hub_id": repository, "hf_hub_filename": filename}


# Positions are learnt at the size of the images, except here.
_POSITION_SIZES = {"vrwkv_large_patch16_384": 192}


def registered_position_size(architecture: str) -> int | None:
    """Pixels on each side that a registered model's positions are for, where that is not its images' size."""
    return _POSITION_SIZES.get(architecture)


# The first tag of a name is the default.
default_cfgs = generate_default_cfgs(
    {
        **{
            file.model: _cfg(**{**_SETTINGS.get(file.name, {}), **_hub(file.repository, file.filename)})
            for file in CLASSIFIERS
        },
        **{file.model: _clip_cfg(**_hub(file.repository, file.filename)) for file in IMAGE_TEXT},
    }
)


def _create(variant: str, pretrained: bool, kwargs: dict[str, Any], **defaults: Any) -> VisionRWKV:
    out_indices = kwargs.pop("out_indices", 3)
    # A subclass of VisionRWKV, such as the adapter, in the size that the name stands for.
    model_class = kwargs.pop("model_class", VisionRWKV)
    with old_containers() if pretrained else nullcontext():
        return build_model_with_cfg(
            model_class,
            variant,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
            **{**defaults, **kwargs},
        )


@register_model
def vrwkv_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionRWKV:
    """VRWKV-T: 6,155,176 parameters."""
    return _create("vrwkv_tiny_patch16_224", pretrained, kwargs, embed_dim=192)


@register_model
def vrwkv_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionRWKV:
    """VRWKV-S: 23,820,136 parameters."""
    return _create("vrwkv_small_patch16_224", pretrained, kwargs, embed_dim=384, post_norm=True, init_values=1.0)


@register_model
def vrwkv_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionRWKV:
    """VRWKV-B: 93,645,544 parameters."""
    return _create("vrwkv_base_patch16_224", pretrained, kwargs, embed_dim=768, post_norm=True, init_values=1e-5)


@register_model
def vrwkv_large_patch16_384(pretrained: bool = False, **kwargs: Any) -> VisionRWKV:
    """VRWKV-L: 334,881,768 parameters; positions learnt on 12×12 patches, used at 384 pixels."""
    return _create(
        "vrwkv_large_patch16_384",
        pretrained,
        kwargs,
        img_size=_POSITION_SIZES["vrwkv_large_patch16_384"],
        embed_dim=1024,
        depth=24,
        post_norm=True,
        key_norm=True,
        init_values=1e-5,
        head_hidden_dim=3072,
        weight_init="torch",
    )


@register_model
def vrwkv6_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionRWKV:
    """VRWKV6-T: 7,641,256 parameters."""
    return _create("vrwkv6_tiny_patch16_224", pretrained, kwargs, mixer="bi_wkv6", embed_dim=192, num_heads=3)


@register_model
def vrwkv6_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionRWKV:
    """VRWKV6-S: 27,677,032 parameters."""
    return _create(
        "vrwkv6_small_patch16_224",
        pretrained,
        kwargs,
        mixer="bi_wkv6",
        embed_dim=384,
        num_heads=6,
        post_norm=True,
        init_values=1e-5,
    )


@register_model
def vrwkv6_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionRWKV:
    """VRWKV6-B: 104,898,280 parameters."""
    return _create(
        "vrwkv6_base_patch16_224",
        pretrained,
        kwargs,
        mixer="bi_wkv6",
        embed_dim=768,
        num_heads=12,
        post_norm=True,
        init_values=1e-5,
    )


def _create_clip_tower(variant: str, pretrained: bool, kwargs: dict[str, Any], patch_size: int) -> VisionRWKV:
    return _create(
        variant,
        pretrained,
        kwargs,
        mixer="bi_wkv6",
        patch_size=patch_size,
        num_classes=0,
        embed_dim=640,
        num_heads=8,
        mlp_ratio=5.0,
        weight_init="torch",
    )


@register_model
def rwkv_clip_base_patch32_224(pretrained: bool = False, **kwargs: Any) -> VisionRWKV:
    """Image tower of RWKV-CLIP B/32: 84,207,360 parameters, mean-pooled features of width 640."""
    return _create_clip_tower("rwkv_clip_base_patch32_224", pretrained, kwargs, 32)


@register_model
def rwkv_clip_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionRWKV:
    """Image tower of RWKV-CLIP B/16: 82,826,880 parameters, mean-pooled features of width 640."""
    return _create_clip_tower("rwkv_clip_base_patch16_224", pretrained, kwargs, 16)
