"""Vision-RWKV for PyTorch: linear-time backbones that install with pip and run anywhere.

`import vrwkv` registers the models with timm; `vrwkv.ops` holds the token mixers, `vrwkv.layers` the blocks.
"""

from vrwkv import layers, ops
from vrwkv.errors import InputError
from vrwkv.models import (
    VisionRWKV,
    VisionRWKV6,
    from_published,
    load_published,
    push_to_hf_hub,
    save_for_hf,
    to_published,
)
from vrwkv.version import __version__

__all__ = [
    "InputError",
    "VisionRWKV",
    "VisionRWKV6",
    "__version__",
    "from_published",
    "layers",
    "load_published",
    "ops",
    "push_to_hf_hub",
    "save_for_hf",
    "to_published",
]
