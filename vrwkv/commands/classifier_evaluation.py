"""What the commands about classifiers share: loaders for labelled images, and results that go into a run folder."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vrwkv.commands.recorded_evaluation import record_evaluation
from vrwkv.data import EvaluationLoader
from vrwkv.data.augmentation import LabelledTransform, evaluation_preprocess
from vrwkv.data.native_resolution import collate_images
from vrwkv.data.skipped import Skipped
from vrwkv.data.source import LabelledSource
from vrwkv.errors import InputError
from vrwkv.evaluate.class_table import write_class_table
from vrwkv.evaluate.classification import per_class_table
from vrwkv.evaluate.classify import ClassificationResult, classify
from vrwkv.evaluate.confusion_plot import draw_confusion
from vrwkv.evaluate.resolution import classify_at_resolutions
from vrwkv.evaluate.resolution_plot import draw_resolutions
from vrwkv.evaluate.results import with_skipped, write_results
from vrwkv.objectives.classifier import Classifier, check_class_names, image_format, load_classifier
from vrwkv.objectives.classifier_config import ClassifierConfig
from vrwkv.training.configuration import load_config


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that reads a trained classifier."""
    parser.add_argument("run", metavar="RUN", help="run folder, its model.safetensors, or a file of weights")
    parser.add_argument("--model", metavar="NAME", help="architecture, where the file does not say which it holds")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--batch-size", type=int, default=256, help="images at once (default: 256)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that decode images (default: 0)")
    parser.add_argument(
        "--max-corrupt-fraction", type=float, default=0.01, help="share of unreadable images to skip (default: 0.01)"
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="let images keep their own shape and size up to N patches (default: as the model was trained)",
    )


def load_model(options: argparse.Namespace, device: torch.device) -> Classifier:
    """The classifier that the arguments of `add_model_arguments` name.

    Raises:
        InputError: as `load_classifier`, or --max-tokens for a model that cannot take images of different sizes.
    """
    classifier = load_classifier(options.run, device, options.model)
    if options.max_tokens is None:
        return classifier
    if options.max_tokens < 1:
        raise InputError(f"--max-tokens must be positive, got {options.max_tokens}")
    packed = image_format(classifier.model, classifier.image.size, options.max_tokens)
    return replace(
        classifier, image=replace(classifier.image, max_tokens=packed.max_tokens, patch_size=packed.patch_size)
    )


def run_config(run: str) -> ClassifierConfig | None:
    """The configuration of a run folder; None for a file. Raises an InputError if neither is there."""
    if not Path(run).exists():
        raise InputError(f"{run} does not exist: name a run folder or a file of weights")
    path = Path(run) / "config.yaml"
    return load_config(ClassifierConfig, path) if path.is_file() else None


def results_folder(run: str, output: Path | None) -> Path | None:
    """The folder that results go to: `output` (made if it is not there), or the run folder; None for a bare file."""
    if output is not None:
        if output.exists() and not output.is_dir():
            raise InputError(f"--output {output} is a file, not a folder")
        output.mkdir(parents=True, exist_ok=True)
        return output
    return Path(run) if Path(run).is_dir() else None


@dataclass
class ClassifierEvaluation:
    """A classifier, labelled images for it, and how to feed one with the other.

    Attributes:
        classifier: its model is on `device`.
        source: labelled images with the classifier's classes.
        description: of the images, for results.json.
        device: where the model is.
        batch_size: images classified at once, at the classifier's own size.
        num_workers: processes that decode images.
        max_corrupt_fraction: share of unreadable images to skip; more is an error.
    """

    classifier: Classifier
    source: LabelledSource
    description: str
    device: torch.device
    batch_size: int = 256
    num_workers: int = 0
    max_corrupt_fraction: float = 0.01

    def __post_init__(self) -> None:
        if not self.classifier.num_classes:
            raise InputError("the model has no classifier: linear_probe.py judges backbones")
        check_class_names(self.classifier, self.source.class_names, self.description)

    @property
    def class_names(self) -> list[str]:
        """The classifier's names, or else those of the images."""
        names = self.classifier.class_names or list(self.source.class_names)
        missing = range(len(names), self.classifier.num_classes)
        return names + [str(label) for label in missing]

    def loader(self, size: int | None = None) -> EvaluationLoader:
        """Batches of the images at their usual size, or at another one, at which batches shrink with the area."""
        return evaluation_loader(
            self.classifier, self.source, self.batch_size, self.num_workers, self.max_corrupt_fraction, size
        )

    def classify(self) -> tuple[ClassificationResult, Skipped]:
        """Accuracy at the classifier's own size, and the images that could not be read."""
        loader = self.loader()
        return classify(self.classifier.model, loader, self.device), loader.skipped

    def at_resolutions(self, sizes: tuple[int, ...]) -> dict[int, ClassificationResult]:
        """Accuracy at each size."""
        return classify_at_resolutions(self.classifier.model, self.loader, sizes, self.device)

    def with_model(self, model: torch.nn.Module) -> "ClassifierEvaluation":
        """The same images for another state of the model."""
        return replace(self, classifier=replace(self.classifier, model=model))


def evaluation_loader(
    classifier: Classifier,
    source: LabelledSource,
    batch_size: int,
    num_workers: int = 0,
    max_corrupt_fraction: float = 0.01,
    size: int | None = None,
) -> EvaluationLoader:
    """Every image of `source` once, as the classifier expects it."""
    area = (classifier.image.size / size) ** 2 if size is not None else 1.0
    return EvaluationLoader(
        source,
        LabelledTransform(evaluation_preprocess(classifier.image, size)),
        batch_size=max(1, int(batch_size * min(1.0, area))),
        num_workers=num_workers,
        max_corrupt_fraction=max_corrupt_fraction,
        pin_memory=torch.cuda.is_available(),
        collate=collate_images(classifier.image.max_tokens if size is None else None),
    )


def record_classification(evaluation: ClassifierEvaluation, run_folder: Path | None) -> ClassificationResult:
    """Classify; numbers go into results.json, the matrix and the table of classes into report/ of the run folder."""
    result, skipped = evaluation.classify()
    if skipped.count:
        print(f"evaluation {skipped.report()}")
    if run_folder is not None:
        max_tokens = evaluation.classifier.image.max_tokens
        shape = "" if max_tokens is None else f", own shapes, at most {max_tokens} patches"
        numbers = {**result.metrics(), "evaluation_data": f"{evaluation.description}{shape}"}
        numbers = with_skipped(run_folder, numbers, "evaluation images", skipped.count)
        record_evaluation(run_folder, evaluation.classifier.model, numbers)
        report = run_folder / "report"
        report.mkdir(exist_ok=True)
        draw_confusion(result.confusion, evaluation.class_names, report / "confusion.png")
        write_class_table(per_class_table(result.confusion, evaluation.class_names), report / "per_class.csv")
    return result


def record_resolutions(
    evaluation: ClassifierEvaluation, sizes: tuple[int, ...], run_folder: Path | None
) -> dict[int, float]:
    """Measure top-1 at each size; the numbers go into results.json and a plot into report/ of the run folder."""
    accuracies = {size: result.top1 for size, result in evaluation.at_resolutions(sizes).items()}
    if run_folder is not None:
        write_results(run_folder, {"resolution_top1": accuracies})
        report = run_folder / "report"
        report.mkdir(exist_ok=True)
        draw_resolutions(accuracies, report / "resolution.png", evaluation.classifier.image.size)
    return accuracies
