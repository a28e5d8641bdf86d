"""Judge frozen features: a linear classifier and k nearest neighbours on what a backbone says of labelled images."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vrwkv.command import run_command
from vrwkv.commands.classifier_evaluation import (
    add_model_arguments,
    evaluation_loader,
    load_model,
    results_folder,
    run_config,
)
from vrwkv.commands.recorded_evaluation import record_evaluation
from vrwkv.data import LabelledDataConfig, build_labelled_source
from vrwkv.data.source import LabelledSource
from vrwkv.errors import InputError
from vrwkv.evaluate.classification import top_k_accuracy
from vrwkv.evaluate.features import extract_features
from vrwkv.evaluate.knn import knn_scores
from vrwkv.evaluate.linear_probe import linear_probe
from vrwkv.evaluate.results import format_results, with_skipped
from vrwkv.objectives.classifier import Classifier
from vrwkv.training.configuration import load_config
from vrwkv.training.distributed import choose_device

EPILOG = """examples:
  linear_probe.py runs/mine                                               the training and evaluation sets of the run
  linear_probe.py runs/mine --train path=pets/train --test path=pets/test
  linear_probe.py vrwkv_b.pth --model vrwkv_base_patch16_224 --train path=pets/train --test path=pets/test

Keys of --train and --test are those of evaluate.data in train_classifier.py --help. The classes may be others than
those the model was trained on."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="linear_probe.py",
        description="Train a linear classifier on the features of a frozen model, and let nearest neighbours vote.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    parser.add_argument("--train", nargs="+", metavar="KEY=VALUE", help="labelled images to learn from")
    parser.add_argument("--test", nargs="+", metavar="KEY=VALUE", help="labelled images to be judged by")
    parser.add_argument("--k", type=int, default=20, help="neighbours that vote (default: 20)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the neighbours' votes (default: 0.07)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for results (default: the run folder)")
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command."""
    options = parser().parse_args(arguments)
    train_data, test_data = _data(options)
    train, test = build_labelled_source(train_data), build_labelled_source(test_data)
    if list(train.class_names) != list(test.class_names):
        raise InputError(
            f"--train has the classes {_some(train.class_names)}, --test {_some(test.class_names)}: "
            "they must be the same, in the same order"
        )
    device = choose_device(options.device)
    classifier = load_model(options, device)
    train_features, train_labels, train_skipped = _features(classifier, train, device, options)
    features, labels, test_skipped = _features(classifier, test, device, options)
    num_classes = len(train.class_names)
    neighbours = knn_scores(train_features, train_labels, features, num_classes, options.k, options.temperature)
    probe = linear_probe(train_features, train_labels, features, num_classes)
    numbers: dict[str, Any] = {
        "linear_probe_top1": top_k_accuracy(probe.scores, labels),
        "linear_probe_regularisation": probe.regularisation,
        "knn_top1": top_k_accuracy(neighbours, labels),
        "knn_k": options.k,
        "probe_train_data": train_data.describe(),
        "probe_test_data": test_data.describe(),
    }
    print(f"{len(train_labels)} training images, {len(labels)} test images, {features.shape[1]} features\n")
    print(format_results(numbers))
    folder = results_folder(options.run, options.output)
    if folder is not None:
        numbers = with_skipped(folder, numbers, "probe images", train_skipped + test_skipped)
        record_evaluation(folder, classifier.model, numbers)
        print(f"\nresults: {folder / 'results.json'}")


def _data(options: argparse.Namespace) -> tuple[LabelledDataConfig, LabelledDataConfig]:
    config = run_config(options.run)
    train = config.data.train if config is not None else None
    test = config.evaluate.data if config is not None else None
    if options.train:
        train = load_config(LabelledDataConfig, None, options.train)
    if options.test:
        test = load_config(LabelledDataConfig, None, options.test)
    if train is None or test is None:
        missing = "--train" if train is None else "--test"
        raise InputError(f"{options.run} does not say which images to use: give {missing} kind=folder path=DIR")
    return train, test


def _features(
    classifier: Classifier, source: LabelledSource, device: torch.device, options: argparse.Namespace
) -> tuple[Tensor, Tensor, int]:
    """Features, labels and the number of images that could not be read."""
    loader = evaluation_loader(
        classifier, source, options.batch_size, options.num_workers, options.max_corrupt_fraction
    )
    features, labels = extract_features(classifier.model, loader, device)
    if loader.skipped.count:
        print(loader.skipped.report())
    return features, labels, loader.skipped.count


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown}, ... ({len(names)})" if len(names) > 4 else shown


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
