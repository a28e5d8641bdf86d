"""Classify images by class names in words: single pictures, or a whole labelled set."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rwkv_clip.commands.evaluation import (
    add_common_arguments,
    load_encoder,
    record_zero_shot,
    require,
    run_config,
    run_folder_of,
)
from rwkv_clip.config import ClipConfig
from rwkv_clip.data.config import SourceConfig
from rwkv_clip.data.templates import resolve_templates
from rwkv_clip.evaluate.classify_images import classify_images
from rwkv_clip.evaluate.configured import Encoder, labelled_source
from rwkv_clip.evaluate.results import format_results
from vrwkv.command import run_command
from vrwkv.errors import InputError

EPILOG = """examples:
  zero_shot.py runs/demo                                             the evaluation set of the run's configuration
  zero_shot.py runs/demo --image a.png b.png --classes cat dog       single pictures
  zero_shot.py model_31.pt --folder imagenet/val --templates imagenet     one sub-folder of images for each class"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="zero_shot.py",
        description="Classify images with class names in words, without having trained on these classes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common_arguments(parser)
    parser.add_argument("--image", nargs="+", type=Path, metavar="FILE", help="pictures to classify")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="class names; probabilities are among them")
    parser.add_argument("--folder", metavar="DIR", help="labelled images, one sub-folder a class, not the run's set")
    parser.add_argument(
        "--templates",
        nargs="+",
        metavar="TEXT",
        help="sentences with {} for the class name, or the name of a set: simple, imagenet, digits, digits_evaluation",
    )
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command."""
    options = parser().parse_args(arguments)
    require(
        options.image is None or options.folder is None, "--image and --folder exclude each other: give one of them"
    )
    config = run_config(options.run)
    data = _evaluation_data(options, config)
    if options.image is None:
        if data is None:
            raise InputError(
                f"{options.run} names no labelled evaluation set (evaluate.zero_shot); give --folder DIR, "
                "or --image FILE with --classes NAME NAME"
            )
        labelled_source(data)
        encoder = load_encoder(options)
        print(format_results(record_zero_shot(encoder, data, run_folder_of(options.run), options.classes)))
        return
    classes = options.classes or (labelled_source(data).class_names if data is not None else None)
    if classes is None:
        raise InputError(f"{options.run} names no classes; say which to choose from: --classes NAME NAME ...")
    require(len(classes) > 1, f"--classes needs at least two names to choose between, not only {classes[0]!r}")
    _classify(load_encoder(options), options.image, classes, _templates(options, data))


def _evaluation_data(options: argparse.Namespace, config: ClipConfig | None) -> SourceConfig | None:
    data = config.evaluate.zero_shot if config is not None else None
    if options.folder is not None:
        data = SourceConfig(kind="folder", path=options.folder)
    if options.templates and data is not None:
        data = replace(data, templates=tuple(options.templates))
    return data


def _templates(options: argparse.Namespace, data: SourceConfig | None) -> tuple[str, ...]:
    if options.templates:
        return resolve_templates(options.templates)
    if data is not None:
        return labelled_source(data).templates
    return resolve_templates("simple")


def _classify(encoder: Encoder, images: list[Path], classes: Sequence[str], templates: Sequence[str]) -> None:
    rankings = classify_images(
        encoder.model,
        encoder.preprocess,
        encoder.tokenizer,
        images,
        classes,
        templates,
        encoder.device,
        encoder.batch_size,
    )
    for image, ranking in zip(images, rankings, strict=True):
        shown = "  ".join(f"{name} {100 * probability:.1f} %" for name, probability in ranking[:5])
        print(f"{image}: {shown}")


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
