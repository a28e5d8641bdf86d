"""Train an image classifier, evaluate it, and leave a run folder with a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from vrwkv.command import run_command
from vrwkv.commands.classifier_evaluation import (
    ClassifierEvaluation,
    record_classification,
    record_resolutions,
)
from vrwkv.data import TrainLoader, build_labelled_source
from vrwkv.data.augmentation import LabelledTransform, training_preprocess
from vrwkv.data.native_resolution import collate_images
from vrwkv.data.source import LabelledSource
from vrwkv.errors import InputError
from vrwkv.evaluate.resolution import check_resolutions
from vrwkv.evaluate.results import format_results, read_results, with_skipped, write_results
from vrwkv.evaluate.training_plot import draw_training
from vrwkv.objectives.classification import ClassificationObjective
from vrwkv.objectives.classifier import Classifier, create_classifier, save_metadata
from vrwkv.objectives.classifier_config import ClassifierConfig
from vrwkv.objectives.teacher import create_distillation
from vrwkv.training.configuration import parse_command_line
from vrwkv.training.distributed import Distributed, distributed_run
from vrwkv.training.loop import fit
from vrwkv.training.metrics import read_metrics
from vrwkv.training.randomness import seed_generators
from vrwkv.training.run_folder import check_run_folder
from vrwkv.training.weights import save_weights

DESCRIPTION = "Train an image classifier on labelled images, or fine-tune one, then evaluate it."


def train(config: ClassifierConfig) -> dict[str, Any]:
    """Train, evaluate and report as `config` says; under torchrun, on all its processes.

    Returns:
        The content of results.json (empty on processes other than the main one).

    Raises:
        InputError: anything in the configuration or the data that does not work.
    """
    run_folder = Path(config.run.output)
    with distributed_run(config.run.device) as distributed:
        distributed.on_main(lambda: check_run_folder(run_folder, config))
        source = build_labelled_source(config.data.train, config.model.num_classes)
        class_names = list(source.class_names)
        seed_generators(config.run.seed)
        classifier = create_classifier(config.model, _num_classes(config, class_names), class_names)
        evaluation = _evaluation(classifier, config, distributed)
        loader = _loader(source, classifier, config, distributed)
        objective = ClassificationObjective(
            config.loss,
            classifier.num_classes,
            create_distillation(config.distillation, classifier, distributed.device),
            config.data.batch_size // distributed.world_size,
            own_sizes=classifier.image.max_tokens is not None,
        )
        if distributed.is_main:
            _announce(classifier, len(source), loader, config)

        def evaluate(model: nn.Module, step: int) -> dict[str, float]:
            assert evaluation is not None
            result, _ = evaluation.with_model(model).classify()
            return {"top1": result.top1, "top5": result.top5}

        fitted = fit(
            classifier.model,
            objective,
            loader,
            config,
            run_folder,
            distributed,
            evaluate if evaluation is not None else None,
        )
        if not distributed.is_main:
            return {}
        save_weights(fitted.model, run_folder / "model.safetensors", save_metadata(classifier))
        print(f"trained {fitted.steps} steps in {fitted.seconds:.0f} s; training data: {loader.skipped.report()}")
        numbers = {"parameters": sum(parameter.numel() for parameter in fitted.model.parameters())}
        write_results(run_folder, with_skipped(run_folder, numbers, "training samples", len(loader.skipped.indices)))
        if evaluation is not None:
            finished = evaluation.with_model(fitted.model)
            record_classification(finished, run_folder)
            if config.evaluate.resolutions:
                record_resolutions(finished, config.evaluate.resolutions, run_folder)
        (run_folder / "report").mkdir(exist_ok=True)
        draw_training(read_metrics(run_folder), run_folder / "report" / "training.png")
        results = read_results(run_folder)
        print(f"\n{format_results(results)}\n\nrun folder: {run_folder}")
        return results


def _num_classes(config: ClassifierConfig, class_names: list[str]) -> int:
    wanted = config.model.num_classes
    if wanted is None:
        if len(class_names) < 2:
            raise InputError(f"the training data has only the class {class_names[0]!r}: there is nothing to tell apart")
        return len(class_names)
    if wanted < len(class_names):
        raise InputError(f"model.num_classes={wanted}, but the training data has {len(class_names)} classes")
    return wanted


def _evaluation(
    classifier: Classifier, config: ClassifierConfig, distributed: Distributed
) -> ClassifierEvaluation | None:
    """Built before training, so that mistakes in the evaluation data show before hours of it."""
    data = config.evaluate.data
    if data is None:
        return None
    check_resolutions(classifier.model, config.evaluate.resolutions, "evaluate.resolutions")
    return ClassifierEvaluation(
        classifier,
        build_labelled_source(data, classifier.num_classes),
        data.describe(),
        distributed.device,
        config.evaluate.batch_size,
        config.data.num_workers,
        config.data.max_corrupt_fraction,
    )


def _loader(
    source: LabelledSource, classifier: Classifier, config: ClassifierConfig, distributed: Distributed
) -> TrainLoader:
    return TrainLoader(
        source,
        LabelledTransform(training_preprocess(classifier.image, config.data.augmentation)),
        batch_size=config.data.batch_size,
        seed=config.run.seed,
        num_workers=config.data.num_workers,
        rank=distributed.rank,
        world_size=distributed.world_size,
        max_corrupt_fraction=config.data.max_corrupt_fraction,
        repeats=config.data.repeats,
        pin_memory=distributed.device.type == "cuda",
        collate=collate_images(classifier.image.max_tokens),
    )


def _announce(classifier: Classifier, samples: int, loader: TrainLoader, config: ClassifierConfig) -> None:
    parameters = list(classifier.model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    steps = loader.steps_per_epoch
    size = f"{classifier.image.size} pixels"
    if classifier.image.max_tokens is not None:
        size = f"their own sizes up to {classifier.image.max_tokens} patches"
    if classifier.starting_point:
        print(f"starting from {classifier.starting_point}")
    print(
        f"training {classifier.architecture} ({trained / 1e6:.2f} M of {total / 1e6:.2f} M parameters) on "
        f"{samples} images of {classifier.num_classes} classes at {size}, "
        f"{config.train.epochs} epochs of {steps} {'step' if steps == 1 else 'steps'}, batch {loader.batch_size}",
        flush=True,
    )


def main(arguments: Sequence[str]) -> None:
    """The command: `[--config FILE.yaml] [key=value ...]`."""
    train(parse_command_line(ClassifierConfig, arguments, DESCRIPTION))


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
