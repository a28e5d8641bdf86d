"""Backbones for dense prediction: the ViT-Adapter around a Vision-RWKV, and feature pyramids."""

from vrwkv.dense.adapter import VisionRWKVAdapter

__all__ = ["VisionRWKVAdapter"]
