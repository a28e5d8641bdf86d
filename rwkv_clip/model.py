"""Two-tower models: from a configuration, from an open_clip name, or from a finished run."""

import json
import math
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from open_clip.model import CustomTextCLIP
from open_clip.transform import PreprocessCfg, image_transform_v2

from rwkv_clip.open_clip_adapter import register
from rwkv_clip.published import from_published_names, open_clip_config
from rwkv_clip.text import MIXERS
from vrwkv.errors import InputError
from vrwkv.models import registry
from vrwkv.models.containers import read_state_dict
from vrwkv.models.published import load_strictly, strip_prefixes

METADATA_KEY = "rwkv_clip_model"


@dataclass
class ImageTowerConfig:
    """The image encoder. Fields left null keep the architecture's own values."""

    architecture: str = "rwkv_clip_base_patch32_224"
    """Any image model of timm or of this toolkit: vrwkv_tiny_patch16_224, vrwkv6_small_patch16_224, vit_tiny_..."""
    image_size: int = 224
    """Pixels on each side that images are resized to."""
    patch_size: int | None = None
    """Pixels on each side of a patch."""
    embed_dim: int | None = None
    """Channels of a token."""
    depth: int | None = None
    """Number of blocks."""
    num_heads: int | None = None
    """Heads of the mixer, where it has heads."""
    mlp_ratio: float | None = None
    """Hidden width of the channel mix over embed_dim."""
    drop_path_rate: float = 0.0
    """Share of residual branches dropped in the last block during training. Published RWKV-CLIP: 0.3."""
    projection: bool = False
    """Project the features linearly to model.embed_dim; needed where the widths differ."""


@dataclass
class TextTowerConfig:
    """The text encoder; its width is model.embed_dim."""

    mixer: str = "rwkv6_bi"
    """Family of the token mixer."""
    depth: int = 6
    """Number of blocks."""
    num_heads: int = 10
    """Heads of the mixer."""
    mlp_ratio: float = 3.5
    """Hidden width of the channel mix over the width."""
    context_length: int = 77
    """Tokens per text; longer texts are cut."""


@dataclass
class ModelConfig:
    """An image tower, a text tower and the temperature between them. The defaults are RWKV-CLIP B/32."""

    embed_dim: int = 640
    """Width of the shared embedding."""
    image: ImageTowerConfig = field(default_factory=ImageTowerConfig)
    """The image encoder."""
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    """The text encoder."""
    init_temperature: float = 0.07
    """Starting temperature of the loss; it is learnt, between 1 and 0.01. SigLIP started from 0.1."""
    init_bias: float | None = None
    """Starting bias of the logits, for loss siglip (which started from -10); null for none."""

    def __post_init__(self) -> None:
        if self.text.mixer not in MIXERS:
            nearest = get_close_matches(self.text.mixer, MIXERS, 1, 0.0)[0]
            raise InputError(f"model.text.mixer {self.text.mixer!r} is unknown; did you mean {nearest!r}?")
        if not timm.is_model(self.image.architecture):
            near = [
                *get_close_matches(self.image.architecture, registry.__all__, 1, 0.6),
                *get_close_matches(self.image.architecture, timm.list_models(), 1, 0.0),
            ][0]
            raise InputError(
                f"model.image.architecture {self.image.architecture!r} is no model of timm or of this toolkit; "
                f"did you mean {near!r}?"
            )
        for name, value in (
            ("embed_dim", self.embed_dim),
            ("image.image_size", self.image.image_size),
            ("image.patch_size", self.image.patch_size),
            ("image.embed_dim", self.image.embed_dim),
            ("image.depth", self.image.depth),
            ("image.num_heads", self.image.num_heads),
            ("image.mlp_ratio", self.image.mlp_ratio),
            ("text.depth", self.text.depth),
            ("text.num_heads", self.text.num_heads),
            ("text.mlp_ratio", self.text.mlp_ratio),
            ("text.context_length", self.text.context_length),
            ("init_temperature", self.init_temperature),
        ):
            if value is not None and value <= 0:
                raise InputError(f"model.{name} must be positive, not {value}")
        if not 0 <= self.image.drop_path_rate < 1:
            raise InputError(f"model.image.drop_path_rate must lie in [0, 1), not {self.image.drop_path_rate}")
        if self.embed_dim % (2 * self.text.num_heads):
            raise InputError(
                f"model.text.num_heads {self.text.num_heads} does not split embed_dim {self.embed_dim} "
                "into heads of even size"
            )

    def to_open_clip(self) -> dict[str, Any]:
        """The configuration in open_clip's format, as the towers of `open_clip_adapter` read it."""
        image, text = self.image, self.text
        kwargs = {
            name: getattr(image, name)
            for name in ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
            if getattr(image, name) is not None
        }
        if image.drop_path_rate:
            kwargs["drop_path_rate"] = image.drop_path_rate
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "timm_model_name": image.architecture,
                "timm_pool": "avg",
                "timm_proj": "linear" if image.projection else "none",
                "image_size": image.image_size,
                "timm_model_kwargs": kwargs,
            },
            "text_cfg": {
                "rwkv_mixer": text.mixer,
                "context_length": text.context_length,
                "width": self.embed_dim,
                "layers": text.depth,
                "heads": text.num_heads,
                "mlp_ratio": text.mlp_ratio,
            },
            "init_logit_scale": -math.log(self.init_temperature),
            "init_logit_bias": self.init_bias,
        }


def create_model(config: ModelConfig | dict[str, Any]) -> CustomTextCLIP:
    """Build a two-tower model with fresh weights.

    Args:
        config: a `ModelConfig`, or a model configuration in open_clip's format.

    Returns:
        open_clip's `CustomTextCLIP`, returning dicts, with our towers as `visual` and `text`.

    Raises:
        InputError: settings that the towers refuse.
    """
    register()
    arguments = dict(config.to_open_clip() if isinstance(config, ModelConfig) else config)
    arguments.pop("custom_text", None)
    try:
        return CustomTextCLIP(**arguments, output_dict=True)
    except InputError:
        raise
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        # timm's and torch's ways of refusing a constructor's arguments.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the model cannot be built: {reason}") from error


def preprocess_config(model: Any) -> PreprocessCfg:
    """Size and normalisation of the images that `model` expects: OpenAI's statistics, the model's size."""
    return PreprocessCfg(size=model.visual.image_size)


def tokenizer_of(model: Any) -> open_clip.SimpleTokenizer:
    """The CLIP tokenizer, cut to the model's context length."""
    return open_clip.SimpleTokenizer(context_length=model.context_length)


def save_metadata(config: ModelConfig) -> dict[str, str]:
    """What a weights file says about its architecture, so that `load` needs nothing else."""
    return {METADATA_KEY: json.dumps(config.to_open_clip())}


def load(path: str | Path, device: torch.device | str = "cpu") -> tuple[CustomTextCLIP, Any, open_clip.SimpleTokenizer]:
    """A trained model, ready to encode.

    Args:
        path: a run folder, a `model.safetensors` of a run, or a published RWKV-CLIP checkpoint (.pt).
        device: where to put the model.

    Returns:
        The model in eval mode; its image preprocessing (PIL image -> tensor); its tokenizer (texts -> ids).

    Raises:
        InputError: nothing there, unreadable, or not an RWKV-CLIP model.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "model.safetensors").is_file():
            raise InputError(f"{path} holds no model.safetensors; has its training finished (run.resume=true goes on)?")
        path = path / "model.safetensors"
    state_dict = {strip_prefixes(name): tensor for name, tensor in read_state_dict(path).items()}
    if "image_model.pos_embed" in state_dict:
        model = create_model(open_clip_config(state_dict))
        load_strictly(model, from_published_names(model, state_dict), str(path))
    else:
        model = create_model(_config_in_file(path))
        load_strictly(model, state_dict, str(path))
    model = model.to(device).eval()
    return model, image_transform_v2(preprocess_config(model), is_train=False), tokenizer_of(model)


def _config_in_file(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    metadata = None
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
    if not metadata or METADATA_KEY not in metadata:
        raise InputError(
            f"{path} does not say which model it holds; "
            "give a run folder, its model.safetensors or a published RWKV-CLIP file"
        )
    return json.loads(metadata[METADATA_KEY])
