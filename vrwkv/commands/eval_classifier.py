"""Evaluate an image classifier: accuracy, table of classes, confusion matrix, accuracy at other resolutions."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vrwkv.command import run_command
from vrwkv.commands.classifier_evaluation import (
    ClassifierEvaluation,
    add_model_arguments,
    load_model,
    record_classification,
    record_resolutions,
    results_folder,
    run_config,
)
from vrwkv.data import LabelledDataConfig, build_labelled_source
from vrwkv.errors import InputError
from vrwkv.evaluate.class_table import format_class_table
from vrwkv.evaluate.classification import per_class_table
from vrwkv.evaluate.resolution import check_resolutions
from vrwkv.evaluate.results import format_results
from vrwkv.training.configuration import load_config
from vrwkv.training.distributed import choose_device

RESOLUTIONS = (112, 160, 192, 224, 288, 384, 512, 768, 1024)
LONGEST_TABLE = 50
EPILOG = """examples:
  eval_classifier.py runs/mine                                            the evaluation set of the run's configuration
  eval_classifier.py runs/mine --data kind=folder path=imagenet/val       another set with the same classes
  eval_classifier.py vrwkv_t_in1k_224.pth --model vrwkv_tiny_patch16_224 --data path=imagenet/val
  eval_classifier.py runs/mine --resolutions                              at 112 to 1024 pixels, with a plot

Keys of --data are those of evaluate.data in train_classifier.py --help. Numbers go into RUN/results.json, pictures and
the table of classes into RUN/report/; with --output DIR, they go there."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="eval_classifier.py",
        description="Evaluate a trained image classifier on labelled images.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    parser.add_argument("--data", nargs="+", metavar="KEY=VALUE", help="labelled images, not the run's evaluation set")
    parser.add_argument(
        "--resolutions",
        nargs="*",
        type=int,
        metavar="PIXELS",
        help=f"measure accuracy at these image sizes, too (without sizes: {' '.join(map(str, RESOLUTIONS))})",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for results (default: the run folder)")
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command."""
    options = parser().parse_args(arguments)
    config = run_config(options.run)
    data = config.evaluate.data if config is not None else None
    if options.data:
        data = load_config(LabelledDataConfig, None, options.data)
    if data is None:
        raise InputError(f"{options.run} names no evaluation set (evaluate.data): give --data kind=folder path=DIR")
    device = choose_device(options.device)
    classifier = load_model(options, device)
    evaluation = ClassifierEvaluation(
        classifier,
        build_labelled_source(data, classifier.num_classes),
        data.describe(),
        device,
        options.batch_size,
        options.num_workers,
        options.max_corrupt_fraction,
    )
    sizes = () if options.resolutions is None else tuple(options.resolutions) or RESOLUTIONS
    check_resolutions(classifier.model, sizes, "--resolutions")
    folder = results_folder(options.run, options.output)
    result = record_classification(evaluation, folder)
    print(format_class_table(per_class_table(result.confusion, evaluation.class_names), LONGEST_TABLE), end="\n\n")
    numbers = dict(result.metrics())
    accuracies = record_resolutions(evaluation, sizes, folder) if sizes else {}
    print(format_results({**numbers, "resolution_top1": accuracies}))
    if folder is not None:
        print(f"\nresults: {folder / 'results.json'}\nreport:  {folder / 'report'}")


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
