"""What the commands share: a trained model and its configuration, and results that go into its run folder."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rwkv_clip.config import ClipConfig
from rwkv_clip.data.config import SourceConfig
from rwkv_clip.evaluate.configured import Encoder, evaluate_retrieval, evaluate_zero_shot
from rwkv_clip.evaluate.results import write_results
from rwkv_clip.model import load
from rwkv_clip.report import write_report
from vrwkv.errors import InputError
from vrwkv.evaluate.results import with_skipped
from vrwkv.training.configuration import load_config
from vrwkv.training.distributed import choose_device


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every evaluating command."""
    parser.add_argument("run", metavar="RUN", help="run folder, its model.safetensors, or a published RWKV-CLIP file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--batch-size", type=int, default=256, help="images or texts encoded at once (default: 256)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that decode images (default: 0)")
    parser.add_argument(
        "--max-corrupt-fraction", type=float, default=0.01, help="share of unreadable images to skip (default: 0.01)"
    )


def load_encoder(options: argparse.Namespace) -> Encoder:
    """The model of `options.run` on the chosen device.

    Raises:
        InputError: no model there, or no such device.
    """
    device = choose_device(options.device)
    model, preprocess, tokenizer = load(options.run, device)
    return Encoder(
        model, preprocess, tokenizer, device, options.batch_size, options.num_workers, options.max_corrupt_fraction
    )


def run_config(run: str) -> ClipConfig | None:
    """The configuration of a run folder; None for a file."""
    path = Path(run) / "config.yaml"
    return load_config(ClipConfig, path) if path.is_file() else None


def run_folder_of(run: str) -> Path | None:
    """The folder that results go to; None for a file."""
    return Path(run) if Path(run).is_dir() else None


def record_zero_shot(
    encoder: Encoder, data: SourceConfig, run_folder: Path | None, class_names: Sequence[str] | None = None
) -> dict[str, float | int]:
    """Classify `data`; the numbers go into results.json and the confusion matrix into the report of the run folder.

    Returns:
        The numbers under their names in results.json.
    """
    evaluation = evaluate_zero_shot(encoder, data, class_names)
    numbers = evaluation.result.metrics()
    if evaluation.skipped.count:
        print(f"zero-shot classification {evaluation.skipped.report()}")
    if run_folder is not None:
        recorded = {**numbers, "zero_shot_data": describe(data)}
        write_results(run_folder, with_skipped(run_folder, recorded, "zero-shot images", evaluation.skipped.count))
        write_report(run_folder, confusion=evaluation.result.confusion, class_names=evaluation.class_names)
    return numbers


def record_retrieval(
    encoder: Encoder, data: SourceConfig, run_folder: Path | None, prefix: str = ""
) -> dict[str, float | int]:
    """Retrieve on `data`; the numbers go into results.json and a grid of images into the report of the run folder.

    Returns:
        The numbers under their names in results.json.
    """
    evaluation = evaluate_retrieval(encoder, data, prefix)
    counts = {"retrieval_images": evaluation.result.image_queries, "retrieval_captions": evaluation.result.text_queries}
    numbers = {**evaluation.result.metrics(), **counts}
    count = sum(skipped.count for skipped in evaluation.skipped)
    for skipped in evaluation.skipped:
        if skipped.count:
            print(f"retrieval {skipped.report()}")
    if run_folder is not None:
        recorded = {**numbers, "retrieval_data": describe(data)}
        write_results(run_folder, with_skipped(run_folder, recorded, "retrieval images", count))
        write_report(run_folder, retrieval=evaluation.examples)
    return numbers


def describe(data: SourceConfig) -> str:
    """A few words that say which data a number was measured on."""
    part = "" if data.split == "all" else f" ({data.split.replace('_', ' ')})"
    return f"{data.path or data.kind}{part}"


def require(condition: bool, message: str) -> None:
    """Raise an InputError with `message` unless `condition` holds."""
    if not condition:
        raise InputError(message)
