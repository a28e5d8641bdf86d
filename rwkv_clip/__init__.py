"""Image-text models on RWKV: training, zero-shot classification and retrieval.

`import rwkv_clip` needs the `clip` extra and teaches open_clip the models RWKV-CLIP-B-32 and RWKV-CLIP-B-16.
"""

try:
    import open_clip as _open_clip  # noqa: F401
except ImportError as error:
    raise ImportError("rwkv_clip needs open_clip: pip install 'vrwkv[clip]'") from error

import vrwkv as _vrwkv  # noqa: F401
from rwkv_clip.model import ModelConfig, create_model, load
from rwkv_clip.open_clip_adapter import register
from rwkv_clip.published import load_published, text_from_published, to_published
from rwkv_clip.text import TextTower

register()

__all__ = ["ModelConfig", "TextTower", "create_model", "load", "load_published", "text_from_published", "to_published"]
