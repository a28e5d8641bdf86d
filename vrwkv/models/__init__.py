"""The Vision-RWKV backbones, their timm names and the mapping to and from published checkpoints."""

from vrwkv.models import registry
from vrwkv.models.from_published import from_published
from vrwkv.models.hub import model_card, push_to_hf_hub, save_for_hf
from vrwkv.models.published import load_published, to_published
from vrwkv.models.vision_rwkv import VisionRWKV, VisionRWKV6

__all__ = [
    "VisionRWKV",
    "VisionRWKV6",
    "from_published",
    "load_published",
    "model_card",
    "push_to_hf_hub",
    "registry",
    "save_for_hf",
    "to_published",
]
