"""Models as files that run without vrwkv: torch.export programs, AOTInductor packages and ONNX."""

from vrwkv.export.tower import Tower, image_tower

__all__ = ["Tower", "image_tower"]
