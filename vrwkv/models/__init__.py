"""The Vision-RWKV backbones, their timm names and the mapping to and from published checkpoints."""

from vrwkv.models import registry
from vrwkv.models.from_published import from_published
from vrwkv.models.published import load_published, to_published
from vrwkv.models.vision_rwkv import VisionRWKV, VisionRWKV6

__all__ = ["VisionRWKV", "VisionRWKV6", "from_published", "load_published", "registry", "to_published"]
