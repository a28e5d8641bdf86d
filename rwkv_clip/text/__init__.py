"""Text towers: one file per family of mixers, one tower around them."""

from rwkv_clip.text.tower import MIXERS, TextTower

__all__ = ["MIXERS", "TextTower"]
