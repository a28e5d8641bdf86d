"""Convert published checkpoints to folders that timm loads, and back to the bit, checking what can be checked."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
from torch import Tensor

from vrwkv.command import run_command
from vrwkv.commands.converted_folder import CONFIG, WEIGHTS, check_output, read_folder, write_folder, write_published
from vrwkv.errors import InputError
from vrwkv.models.containers import find_state_dict, read_container
from vrwkv.models.conversion import Conversion, Record, revert
from vrwkv.models.published import published_names, strip_prefixes
from vrwkv.models.published_architecture import checked_name
from vrwkv.models.published_files import PublishedFile, published_file, sha256_of
from vrwkv.models.vision_conversion import adapter_sizes, check_decays, convert_vision, matching_files, model_sizes
from vrwkv.training.weights import read_tensors

EPILOG = """examples:
  convert_checkpoint.py vrwkv_t_in1k_224.pth --output vrwkv_t         then timm.create_model("local-dir:vrwkv_t", pretrained=True)
  convert_checkpoint.py vrwkv_l_22kto1k_384.pth --output vrwkv_l --formula published     the released kernels' Bi-WKV
  convert_checkpoint.py upernet_vrwkv_adapter_tiny_512_160k_ade20k.pth --output tiny     the backbone; the rest is kept beside it
  convert_checkpoint.py model_31.pt --output clip --published-file RWKV-CLIP-B32-YFCC15M     then rwkv_clip.load("clip")
  convert_checkpoint.py vrwkv_t --to published --output vrwkv_t_in1k_224.pth"""  # noqa: E501


@dataclass
class Converted:
    """What a family of models makes of a published state dict."""

    conversion: Conversion
    config: dict[str, Any]
    """Content of config.json."""
    sizes: tuple[int, int]
    """Numbers of tensors and parameters that a released file is known by."""
    files: list[PublishedFile]
    """Released files of this architecture and size."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Texts for the header of the weights file."""
    checks: dict[str, str] = field(default_factory=dict)
    """Further findings, by what was checked."""
    warnings: list[str] = field(default_factory=list)
    """What the user should know before using the weights."""


class Family(Protocol):
    """A kind of published models: how its files are recognised and converted."""

    def recognises(self, names: Sequence[str]) -> bool:
        """Whether published names, prefixes stripped, are of this kind."""

    def convert(
        self, state_dict: Mapping[str, Tensor], where: str, container: str | None, options: argparse.Namespace
    ) -> Converted:
        """Convert a state dict."""

    def published_names(self, folder: Path) -> dict[str, str] | None:
        """Our name -> published name for a folder of our own making; None for one of another kind."""


class VisionFamily:
    """Vision-RWKV classifiers and adapters."""

    def recognises(self, names: Sequence[str]) -> bool:
        """Whatever no other family claims is taken for a Vision-RWKV, whose reader says what is missing."""
        return True

    def convert(
        self, state_dict: Mapping[str, Tensor], where: str, container: str | None, options: argparse.Namespace
    ) -> Converted:
        """Convert a classifier, or the backbone of an adapter."""
        if any(strip_prefixes(name).startswith("text_model.") for name in state_dict):
            raise InputError(f"{where} holds an RWKV-CLIP model, which needs open_clip: pip install 'vrwkv[clip]'")
        conversion, config = convert_vision(
            state_dict, where, model_name=options.model, formula=options.formula, container=container
        )
        line, warning = check_decays(conversion, config)
        sizes = adapter_sizes(conversion) if conversion.other_parts else model_sizes(conversion)
        kept = {"other parts": f"{len(conversion.other_parts)} tensors, kept in other_parts.safetensors"}
        return Converted(
            conversion,
            config,
            sizes,
            matching_files(conversion, config),
            checks={"decays": line, **(kept if conversion.other_parts else {})},
            warnings=[warning] if warning else [],
        )

    def published_names(self, folder: Path) -> dict[str, str] | None:
        """Names for a model folder of timm's form."""
        if not (folder / CONFIG).is_file():
            return None
        try:
            with torch.device("meta"):
                model = timm.create_model(f"local-dir:{folder}")
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{folder / CONFIG} describes no model that timm can build: {error}") from None
        names = published_names(model)
        return {own: name if name.startswith("head.") else f"backbone.{name}" for own, name in names.items()}


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="convert_checkpoint.py",
        description="Convert a published Vision-RWKV or RWKV-CLIP checkpoint to a folder of ours, or back.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="published file; with --to published, a folder")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; with --to published, a file")
    parser.add_argument("--to", choices=("ours", "published"), default="ours", help="direction (default: ours)")
    parser.add_argument(
        "--formula",
        choices=("paper", "published"),
        default="paper",
        help="Bi-WKV that the model will compute: the paper's or the released kernels' (default: paper)",
    )
    parser.add_argument("--model", metavar="NAME", help="timm name of the model; by default read off the shapes")
    parser.add_argument(
        "--published-file", metavar="NAME", help="released file that SOURCE must be, such as RWKV-CLIP-B32-YFCC15M"
    )
    parser.add_argument(
        "--weights",
        choices=("averaged", "raw"),
        default="averaged",
        help="which to take of a file that holds both (default: averaged)",
    )
    return parser


def main(arguments: Sequence[str], families: Sequence[Family] = (VisionFamily(),)) -> None:
    """The command; the first of `families` that recognises a file converts it."""
    options = parser().parse_args(arguments)
    if options.model is not None:
        checked_name(options.model)
    expected = published_file(options.published_file) if options.published_file is not None else None
    check_output(options.output)
    if options.to == "published":
        _to_published(options, families)
        return
    converted, digest = _to_ours(options, families, expected)
    known = [file.name for file in converted.files]
    source = {"source": options.source.name, "sha256": digest, "published_files": known}
    write_folder(options.output, converted.conversion, converted.config, source, converted.metadata)
    print(f"written: {options.output}")


def _to_ours(
    options: argparse.Namespace, families: Sequence[Family], expected: PublishedFile | None
) -> tuple[Converted, str]:
    where = f"checkpoint {options.source}"
    container, state_dict = find_state_dict(read_container(options.source), options.weights == "averaged", where)
    names = [strip_prefixes(name) for name in state_dict]
    if any(name.startswith("blocks.") for name in names):
        raise InputError(f"{where} has our names already; --to published converts a folder back")
    family = next(family for family in families if family.recognises(names))
    converted = family.convert(state_dict, where, container, options)
    digest = sha256_of(options.source)
    if expected is not None:
        _check_expected(expected, converted, digest, where)
    _report(converted, digest, len(state_dict))
    return converted, digest


def _check_expected(expected: PublishedFile, converted: Converted, digest: str, where: str) -> None:
    if expected.has_digest(digest) is False:
        first, last = expected.sha256 or ("", "")
        raise InputError(f"{where} is not {expected.name}: its SHA-256 is {digest}, not {first}…{last}")
    if expected not in converted.files:
        tensors, parameters = converted.sizes
        raise InputError(
            f"{where} is not {expected.name}: {tensors} tensors and {parameters:,} parameters of "
            f"{converted.config['architecture']}, not {expected.tensors} and {expected.parameters:,} of "
            f"{expected.model.partition('.')[0]}"
        )


def _report(converted: Converted, digest: str, file_tensors: int) -> None:
    tensors, parameters = converted.sizes
    known = [file for file in converted.files if file.has_digest(digest)]
    possible = known or [file for file in converted.files if file.has_digest(digest) is None]
    names = " or ".join(file.name for file in possible)
    lines = {
        "architecture": converted.config["architecture"],
        "names and shapes": f"all {len(converted.conversion.tensors)} as they must be",
        "counts": f"{tensors} tensors, {parameters:,} parameters" + (f", as in {names}" if names else ""),
        **converted.checks,
        "way back": f"all {file_tensors} tensors to the bit",
        "SHA-256": f"{digest} ({'as published' if known else 'nothing to compare with' if possible else 'unknown'})",
    }
    for name, finding in lines.items():
        print(f"{name + ':':<18}{finding}")
    if not possible:
        converted.warnings.append("no released file has this architecture, size and SHA-256: weights of your own?")
    for warning in converted.warnings:
        print(f"warning: {warning}")


def _to_published(options: argparse.Namespace, families: Sequence[Family]) -> None:
    folder = options.source if options.source.is_dir() else options.source.parent
    conversion = read_folder(folder)
    if conversion is None:
        names = next((found for family in families if (found := family.published_names(folder)) is not None), None)
        if names is None:
            raise InputError(f"{folder} holds neither published.json nor {CONFIG}: it does not say which model it is")
        tensors, _ = read_tensors(folder / WEIGHTS)
        if unknown := [name for name in tensors if name not in names]:
            raise InputError(f"{folder / WEIGHTS} holds {unknown[0]}, which has no published name")
        container = "state_dict" if any(name.startswith("backbone.") for name in names.values()) else None
        record = Record(container, {published: own for own, published in names.items()}, {}, {})
        conversion = Conversion(tensors, {}, record)
    state_dict = revert(conversion)
    write_published(options.output, state_dict, conversion.record.container)
    print(f"written: {options.output} ({len(state_dict)} tensors under published names)")


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
