"""Export a tower of an image-text model, or a plain image model, as a file that runs without this toolkit."""

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from rwkv_clip.model import create_model, load, preprocess_config
from rwkv_clip.open_clip_adapter import MODEL_CONFIGS
from rwkv_clip.text import TextTower
from vrwkv.command import run_command
from vrwkv.commands.export import CLIP_PREFIX
from vrwkv.commands.export import main as export
from vrwkv.data.augmentation import ImageFormat
from vrwkv.errors import InputError
from vrwkv.export.metadata import image_metadata, model_metadata
from vrwkv.export.tower import Tower, image_tower
from vrwkv.models import VisionRWKV

TOKENIZER = "open_clip.SimpleTokenizer"  # what `rwkv_clip.model.tokenizer_of` makes


def main(arguments: Sequence[str]) -> None:
    """The command; arguments as `vrwkv.commands.export`."""
    export(arguments, clip_tower)


def clip_tower(options: argparse.Namespace) -> Tower | None:
    """The tower that the command line asks for; None if that is a plain image model.

    Raises:
        InputError: an unknown model, or a checkpoint of another one.
    """
    if options.tower == "image" and not (options.model or "").startswith(CLIP_PREFIX):
        return None
    names = sorted(file.stem for file in MODEL_CONFIGS.glob("*.json"))
    if options.model is not None and options.model not in names:
        near = get_close_matches(options.model, names, 3, 0.0)
        raise InputError(f"--model {options.model!r} is no image-text model; the nearest are {', '.join(near)}")
    if options.model_kwargs:
        raise InputError(f"--model-kwargs are for plain image models, not for {options.model or 'image-text models'}")
    if options.checkpoint is None and options.model is None:
        raise InputError(f"name a model, for example --model {names[0]}, or a --checkpoint")
    model = _model(options.model, options.checkpoint)
    if options.tower == "text":
        same = (name for name in names if _shapes(name) == _shapes_of(model))
        return text_tower(model.text, options.model or next(same, CLIP_PREFIX))
    trunk: Any = model.visual.trunk
    if not isinstance(trunk, VisionRWKV):
        raise InputError(f"only towers of this toolkit are exported, not {type(trunk).__name__}")
    return image_tower(model.visual, trunk, image_metadata(options.model, _image_format(model)))


def _image_format(model: Any) -> ImageFormat:
    """What `load`'s preprocessing does; open_clip resizes the shorter side to the size itself."""
    config = preprocess_config(model)
    size = config.size if isinstance(config.size, int) else config.size[0]
    return ImageFormat(size, tuple(config.mean), tuple(config.std), config.interpolation, crop_pct=1.0)  # type: ignore[arg-type]


def _model(name: str | None, checkpoint: str | None) -> Any:
    if checkpoint is None:
        config = open_clip.get_model_config(name)
        assert config is not None
        return create_model(config).eval()
    model, _, _ = load(Path(checkpoint))
    if name is not None and _shapes(name) != _shapes_of(model):
        raise InputError(f"{checkpoint} does not hold a {name}; leave --model out to take the model as it is")
    return model


def _shapes(name: str) -> dict[str, torch.Size]:
    config = open_clip.get_model_config(name)
    assert config is not None
    with torch.device("meta"):
        return _shapes_of(create_model(config))


def _shapes_of(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in model.state_dict().items()}


def text_tower(tower: TextTower, architecture: str = CLIP_PREFIX) -> Tower:
    """A text tower for any number of texts of its full context length, as its tokenizer makes them.

    Args:
        tower: the model.
        architecture: name of the image-text model, for the file's metadata.

    Raises:
        InputError: a tower of another toolkit.
    """
    if not isinstance(tower, TextTower):
        raise InputError(f"only towers of this toolkit are exported, not {type(tower).__name__}")

    def draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(tower.vocab_size, shape, generator=generator)

    length = tower.context_length
    return Tower(
        module=tower.eval(),
        input_name="text",
        output_name="features",
        draw=draw,
        example_shape=(2, length),
        dynamic_sizes={0: ("batch", 1)},
        check_shapes=((1, length), (3, length), (8, length)),
        metadata=model_metadata(architecture, context_length=length, vocab_size=tower.vocab_size, tokenizer=TOKENIZER),
    )


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
