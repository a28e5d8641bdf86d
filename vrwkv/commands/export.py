"""Export an image model as a file that runs without vrwkv, and compare the file with the model."""

import argparse
import ast
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vrwkv.command import run_command
from vrwkv.errors import InputError
from vrwkv.export.errors import ExportFailure
from vrwkv.export.metadata import image_metadata
from vrwkv.export.onnx_file import OLDEST_OPSET
from vrwkv.export.parity import format_differences
from vrwkv.export.quantize import format_cost
from vrwkv.export.tower import Tower, image_tower
from vrwkv.export.write import SUFFIXES, check_request, write_checked

if TYPE_CHECKING:
    from vrwkv.objectives.classifier import Classifier

CLIP_PREFIX = "RWKV-CLIP"
NUM_COST_INPUTS = 32
EPILOG = """examples:
  export.py --model vrwkv_tiny_patch16_224 --checkpoint vrwkv_t_in1k_224.pth --format onnx --output tiny.onnx
  export.py --checkpoint runs/digits --format torch_export --output digits.pt2           a finished run knows its model
  export.py --model vrwkv6_tiny_patch16_224 --format onnx --quantize int8 --output tiny8.onnx
  export.py --model RWKV-CLIP-B-32 --checkpoint model_31.pt --tower text --format onnx --output text.onnx

The file takes any number of images of any size from two patches on each side. It is compared with the model at three
sizes before it gets its name; without --checkpoint the weights are random, drawn from --seed. The file says how its
input must be prepared: docs/export.md."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="export.py",
        description="Export an image or text model as a file that runs without vrwkv: ONNX, a torch.export program or\n"
        "an AOTInductor package.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", metavar="NAME", help="architecture; not needed where the checkpoint knows its own")
    parser.add_argument("--tower", choices=("image", "text"), default="image", help="default: image")
    parser.add_argument("--checkpoint", metavar="FILE", help="run folder, its model.safetensors, or a published file")
    parser.add_argument("--format", required=True, choices=tuple(SUFFIXES), help="kind of file")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help=".onnx, or .pt2 for the others")
    parser.add_argument("--opset", type=int, default=OLDEST_OPSET, help="ONNX operator set (default: %(default)s)")
    parser.add_argument("--quantize", choices=("int8",), help="store linear layers as int8; onnx only")
    parser.add_argument("--seed", type=int, default=0, help="of random weights and inputs (default: %(default)s)")
    parser.add_argument(
        "--model-kwargs",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="arguments of the architecture without a checkpoint: depth=2 embed_dim=64 num_classes=10",
    )
    return parser


def main(arguments: Sequence[str], clip_tower: Callable[[argparse.Namespace], Tower | None] | None = None) -> None:
    """The command.

    Args:
        arguments: of the command line.
        clip_tower: builds text towers and towers of image-text models, or returns None for a plain image model;
            without it, only plain image models are exported.
    """
    options = parser().parse_args(arguments)
    check_request(options.format, options.output, options.opset, options.quantize)
    torch.manual_seed(options.seed)
    tower = None if clip_tower is None else clip_tower(options)
    if tower is None:
        tower = _image_tower(options)
    started = time.perf_counter()
    try:
        exported = write_checked(
            tower,
            options.format,
            options.output,
            opset=options.opset,
            quantize=options.quantize,
            seed=options.seed,
            quantization_inputs=_cost_inputs(tower, options.seed) if options.quantize else None,
            progress=_say,
        )
    except ExportFailure as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    seconds = time.perf_counter() - started
    weights = f"weights of {options.checkpoint}" if options.checkpoint else f"random weights of seed {options.seed}"
    print(f"{options.output}: {exported.size / 1e6:.1f} MB, {weights}, exported and checked in {seconds:.0f} s")
    print(f"difference from eager{' before quantisation' if options.quantize else ''}:")
    print(format_differences(exported.differences))
    if options.quantize:
        print(f"{exported.quantized_layers} linear layers as int8")
    for name, cost in exported.costs.items():
        print(format_cost(name, cost))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _image_tower(options: argparse.Namespace) -> Tower:
    if options.tower == "text" or (options.model or "").startswith(CLIP_PREFIX):
        wanted = "--tower text" if options.tower == "text" else f"--model {options.model}"
        raise InputError(f"{wanted} needs image-text models: pip install 'vrwkv[clip]' and run rwkv-clip-export")
    classifier = _classifier(options)
    model: Any = classifier.model
    height, width = model.patch_embed.img_size
    # Our evaluation prepares square images in colour; for a model of others, nobody has said how to.
    prepared = classifier.image if model.in_chans == 3 and height == width else None
    return image_tower(model, metadata=image_metadata(classifier.architecture, prepared, classifier.class_names))


def _classifier(options: argparse.Namespace) -> "Classifier":
    from vrwkv.models import VisionRWKV
    from vrwkv.objectives.classifier import load_classifier

    if options.model is not None:
        check_image_architecture(options.model)
    if options.checkpoint is not None:
        if options.model_kwargs:
            raise InputError("--model-kwargs are for models without a checkpoint; a run's file knows its own")
        classifier = load_classifier(options.checkpoint, default_architecture=options.model)
        if options.model not in (None, classifier.architecture):
            raise InputError(f"{options.checkpoint} holds {classifier.architecture}, not --model {options.model}")
    else:
        if options.model is None:
            raise InputError("name an architecture, for example --model vrwkv_tiny_patch16_224, or a --checkpoint")
        classifier = _untrained_classifier(options.model, options.model_kwargs)
    if not isinstance(classifier.model, VisionRWKV):
        raise InputError(f"only models of this toolkit are exported, not {type(classifier.model).__name__}")
    return classifier


def _untrained_classifier(name: str, texts: Sequence[str]) -> "Classifier":
    import timm
    from timm.layers import to_2tuple

    from vrwkv.objectives.classifier import Classifier, image_format

    arguments = parse_keyword_arguments(texts)
    try:
        model = timm.create_model(name, pretrained=False, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{name} cannot be built with {' '.join(texts)}: {reason}") from error
    # A model built for another size than the registered one would be trained at that.
    size = to_2tuple(arguments["img_size"])[0] if "img_size" in arguments else None
    return Classifier(model, name, arguments, image_format(model, size), None)


def check_image_architecture(name: str) -> None:
    """Raise an InputError, with the nearest names, unless `name` is an image model of this toolkit."""
    from difflib import get_close_matches

    from vrwkv.models import registry

    if name.split(".")[0] not in registry.__all__:
        near = get_close_matches(name, registry.__all__, 3, 0.0)
        raise InputError(f"--model {name!r} is no image model of this toolkit; the nearest are {', '.join(near)}")


def parse_keyword_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """`["depth=2", "mixer=bi_wkv6"]` -> {"depth": 2, "mixer": "bi_wkv6"}.

    Raises:
        InputError: a text without a name or an equals sign.
    """
    arguments: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name.isidentifier() or not equals:
            raise InputError(f"--model-kwargs {text!r} must have the form key=value, for example depth=2")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name] = value
    return arguments


def _cost_inputs(tower: Tower, seed: int) -> dict[str, Tensor]:
    """What the cost of int8 is measured on: random inputs and, for images where scikit-learn is there, digits."""
    generator = torch.Generator().manual_seed(seed)
    shape = (NUM_COST_INPUTS, *tower.check_shapes[0][1:])
    inputs = {"random inputs": tower.draw(shape, generator)}
    if len(shape) == 4 and (digits := _digits(shape)) is not None:
        inputs["handwritten digits"] = digits
    return inputs


def _digits(shape: tuple[int, ...]) -> Tensor | None:
    """scikit-learn's digits, resized and standardised; None without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return None
    images = torch.from_numpy(load_digits().images[: shape[0]]).float()[:, None]
    images = torch.nn.functional.interpolate(images, shape[2:], mode="bicubic", align_corners=False)
    return ((images - images.mean()) / images.std()).expand(-1, shape[1], -1, -1).contiguous()


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
