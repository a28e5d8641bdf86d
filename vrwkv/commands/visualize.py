"""Draw what a backbone looks at: receptive fields, decays, similarities, principal components."""

import argparse
import ast
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor, nn

from vrwkv.command import run_command
from vrwkv.commands.drawn_model import drawn_model
from vrwkv.errors import InputError
from vrwkv.layers import SpatialMix, SpatialMix6
from vrwkv.training.distributed import choose_device
from vrwkv.visualize import (
    build_backbone,
    checked_patch,
    decay_map,
    draw_decay_maps,
    draw_feature_pca,
    draw_receptive_fields,
    draw_token_similarity,
    effective_receptive_field,
    feature_pca,
    features_without_gradient,
    load_backbone,
    model_input,
    number_of_blocks,
    patch_at_pixel,
    patch_size,
    read_image,
    sample_files,
    save_figure,
    square,
    sum_is_constant,
    token_similarity,
)
from vrwkv.visualize.effective_receptive_field import Projection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS_BETWEEN_LINES = 5.0
EPILOG = """pictures:
  erf.png         effective receptive field: which pixels move the features of one patch, and how much
  decay.png       how far each channel of each block looks, in tokens (vrwkv models only)
  similarity.png  how alike one patch is to all others
  pca.png         patch features as colours: their first three principal components over all images

examples:
  visualize.py --model vrwkv_tiny_patch16_224 --output pictures
  visualize.py --checkpoint runs/mine --image cat.jpg dog.jpg --output pictures       a finished run knows its model
  visualize.py --model vrwkv6_tiny_patch16_224 --checkpoint vrwkv6_t_in1k_224.pth --output pictures
  visualize.py --what similarity --model vit_tiny_patch16_224 --image cat.jpg --pixel 120 80 --output pictures"""


@dataclass(frozen=True)
class Subject:
    """What is drawn: a model, "untrained" and perhaps "trained", the pictures it sees, and where to look."""

    name: str
    models: dict[str, nn.Module]
    pictures: list[Image.Image]
    images: Tensor
    block: int
    patch: tuple[int, int]
    patch_size: tuple[int, int]
    title: str


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="visualize.py",
        description="Draw what an image model looks at, as PNG files. With a checkpoint, the untrained model is drawn\n"
        "beside the trained one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--what", choices=[*PICTURES, "all"], default="all", help="default: %(default)s")
    parser.add_argument(
        "--model", metavar="NAME", help="a vrwkv model, or a vision transformer of timm; a run folder knows its own"
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="trained weights, ours or published; or a run folder")
    parser.add_argument("--image", nargs="+", metavar="FILE", help="default: the two that come with scikit-learn")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the PNG files go")
    parser.add_argument(
        "--size", type=int, metavar="N", help="images become N×N pixels (default: the run's image size, or else 224)"
    )
    parser.add_argument("--block", type=int, default=-1, metavar="I", help="look after this block (default: the last)")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--patch", nargs=2, type=int, metavar=("ROW", "COL"), help="patch to look from, from 0 (centre)")
    place.add_argument("--pixel", nargs=2, type=float, metavar=("X", "Y"), help="the patch at this of the N×N pixels")
    parser.add_argument(
        "--model-kwargs", nargs="+", default=[], metavar="KEY=VALUE", help="arguments of the model, such as depth=4"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command."""
    options = parser().parse_args(arguments)
    if options.output.exists() and not options.output.is_dir():
        raise InputError(f"--output {options.output} is a file; name a folder")
    subject = _subject(options)
    wanted = list(PICTURES) if options.what == "all" else [options.what]
    if options.what == "all" and not _has_decays(subject):
        print(f"{subject.name} has no decays: no decay map is drawn", file=sys.stderr)
        wanted.remove("decay")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        for what in wanted:
            began = time.monotonic()
            file = options.output / f"{what}.png"
            save_figure(PICTURES[what](subject), file)
            print(f"{file}  ({time.monotonic() - began:.1f} s)", flush=True)
    except OSError as error:
        raise InputError(f"cannot write to {options.output}: {error}") from None


def _subject(options: argparse.Namespace) -> Subject:
    """Everything that can be wrong with the input is found here, before anything is drawn or written."""
    device = choose_device(options.device)
    drawn = drawn_model(options.model, options.checkpoint, _model_options(options.model_kwargs))
    length = drawn.image_size if options.size is None else options.size
    models = {"untrained": build_backbone(drawn.name, drawn.options)}
    if options.checkpoint is not None:
        models["trained"] = build_backbone(drawn.name, drawn.options)
        load_backbone(models["trained"], options.checkpoint)
    for model in models.values():
        model.to(device)
    model = models["untrained"]
    size = patch_size(model)
    if length < max(size):
        raise InputError(f"--size {length} is less than a patch of {drawn.name}: {size[0]}×{size[1]} pixels")
    files = options.image or sample_files()
    pictures = [square(read_image(file, max(size)), length) for file in files]
    depth = number_of_blocks(model)
    if not -depth <= options.block < depth:
        raise InputError(f"--block {options.block} does not exist: {drawn.name} has blocks 0 to {depth - 1}")
    grid = (-(-length // size[0]), -(-length // size[1]))
    patch = (grid[0] // 2, grid[1] // 2)
    if options.pixel is not None:
        patch = patch_at_pixel(options.pixel[0], options.pixel[1], size)
    elif options.patch is not None:
        patch = (options.patch[0], options.patch[1])
    patch = checked_patch(patch, grid)
    block = options.block % depth
    place = "the last" if block == depth - 1 else f"of 0 to {depth - 1}"
    title = f"{drawn.name}, {length} px, after block {block} ({place})"
    return Subject(drawn.name, models, pictures, model_input(model, pictures), block, patch, size, title)


def _model_options(pairs: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise InputError(f"cannot read --model-kwargs {pair}: write KEY=VALUE, such as depth=4")
        try:
            found[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[key] = text
    return found


def _has_decays(subject: Subject) -> bool:
    return any(isinstance(module, (SpatialMix, SpatialMix6)) for module in subject.models["untrained"].modules())


def _draw_receptive_field(subject: Subject) -> "Figure":
    # The same measure for all models, or they could not be compared.
    constant = any(sum_is_constant(model, subject.images[:1], subject.block) for model in subject.models.values())
    projection: Projection = "signs" if constant else "sum"
    fields = {
        name: effective_receptive_field(
            model,
            subject.images,
            block=subject.block,
            patch=subject.patch,
            projection=projection,
            progress=_progress(f"erf, {name}", len(subject.images)),
        )
        for name, model in subject.models.items()
    }
    measure = "sum of the channels" if projection == "sum" else "randomly signed sum of the channels"
    row, column = subject.patch
    note = f"gradient of the {measure} of the patch in row {row}, column {column}; mean of {_images(subject)}"
    return draw_receptive_fields(fields, title=f"Effective receptive field: {subject.title}", note=note)


def _draw_decay(subject: Subject) -> "Figure":
    maps = {name: decay_map(model, subject.images) for name, model in subject.models.items()}
    name = subject.title.partition(", after")[0]
    return draw_decay_maps(maps, title=f"How far each channel looks: {name}")


def _draw_similarity(subject: Subject) -> "Figure":
    maps = {
        name: [
            token_similarity(features, subject.patch) for features in _features(subject, f"similarity, {name}", name)
        ]
        for name in subject.models
    }
    return draw_token_similarity(
        subject.pictures, maps, subject.patch, subject.patch_size, title=f"Which patches are alike\n{subject.title}"
    )


def _draw_pca(subject: Subject) -> "Figure":
    components = {name: feature_pca(_features(subject, f"pca, {name}", name)) for name in subject.models}
    return draw_feature_pca(
        subject.pictures,
        components,
        subject.patch_size,
        title=f"Principal components of patch features\n{subject.title}",
    )


def _features(subject: Subject, task: str, name: str) -> list[Tensor]:
    """(h, w, C) of each picture, one after the other: memory is that of one."""
    progress = _progress(task, len(subject.images))
    found = []
    for number, image in enumerate(subject.images.split(1), start=1):
        found.append(features_without_gradient(subject.models[name], image, subject.block)[0])
        progress(number)
    return found


def _images(subject: Subject) -> str:
    return "1 image" if len(subject.images) == 1 else f"{len(subject.images)} images"


def _progress(task: str, total: int) -> Callable[[int], None]:
    """A line on stderr now and then, for work that takes long; none for what is done at once."""
    last = time.monotonic()

    def show(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{task}: image {done} of {total}", file=sys.stderr, flush=True)

    return show


PICTURES: dict[str, Callable[[Subject], "Figure"]] = {
    "erf": _draw_receptive_field,
    "decay": _draw_decay,
    "similarity": _draw_similarity,
    "pca": _draw_pca,
}


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
