"""Train a detector with or without masks, evaluate it, and leave a run folder with a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from vrwkv.command import run_command
from vrwkv.commands.detector_evaluation import DetectorEvaluation
from vrwkv.data import TrainLoader
from vrwkv.data.coco import CocoSource
from vrwkv.data.detection import build_detection_source, draw_missing_scenes
from vrwkv.data.detection_augmentation import DetectionTransform, collate_detection
from vrwkv.evaluate.detection_results import DETECTION
from vrwkv.evaluate.results import read_results, with_skipped
from vrwkv.evaluate.training_plot import draw_training
from vrwkv.objectives.detection import DetectionObjective
from vrwkv.objectives.detection_config import DetectorConfig
from vrwkv.objectives.detector import Detector, create_detector, save_metadata
from vrwkv.training.configuration import parse_command_line
from vrwkv.training.distributed import Distributed, distributed_run
from vrwkv.training.loop import fit
from vrwkv.training.metrics import read_metrics
from vrwkv.training.randomness import seed_generators
from vrwkv.training.run_folder import check_run_folder
from vrwkv.training.weights import save_weights

DESCRIPTION = "Train a detector (Mask R-CNN or Faster R-CNN) on images with boxes and masks, then evaluate it."


def train(config: DetectorConfig) -> dict[str, Any]:
    """Train, evaluate and report as `config` says; under torchrun, on all its processes.

    Returns:
        The content of results.json (empty on processes other than the main one).

    Raises:
        InputError: anything in the configuration or the data that does not work.
    """
    run_folder = Path(config.run.output)
    with distributed_run(config.run.device) as distributed:
        distributed.on_main(lambda: check_run_folder(run_folder, config))
        distributed.on_main(lambda: draw_missing_scenes(config.data.train))
        source = build_detection_source(config.data.train, masks=config.model.masks, keep_empty=config.data.keep_empty)
        seed_generators(config.run.seed)
        detector = create_detector(config.model, source.class_names)
        model = _with_shared_norms(detector.model, distributed)
        evaluation = _evaluation(detector, config, distributed)
        loader = _loader(source, config, distributed)
        if distributed.is_main:
            _announce(detector, len(source), loader, config)

        def evaluate(model: nn.Module, step: int) -> dict[str, float]:
            assert evaluation is not None
            numbers, _, _ = evaluation.measure(model)
            return {name: value for name, value in numbers.items() if "_ap" in name and value is not None}

        fitted = fit(
            model,
            DetectionObjective(),
            loader,
            config,
            run_folder,
            distributed,
            evaluate if evaluation is not None else None,
        )
        if not distributed.is_main:
            return {}
        save_weights(fitted.model, run_folder / "model.safetensors", save_metadata(detector))
        print(f"trained {fitted.steps} steps in {fitted.seconds:.0f} s; training data: {loader.skipped.report()}")
        numbers = {"parameters": sum(parameter.numel() for parameter in fitted.model.parameters())}
        skipped = len(loader.skipped.indices)
        DETECTION.write(run_folder, with_skipped(run_folder, numbers, "training samples", skipped))
        (run_folder / "report").mkdir(exist_ok=True)
        if evaluation is not None:
            settings = config.evaluate
            evaluation.record(fitted.model, run_folder, settings.pictures, settings.picture_threshold)
        draw_training(
            read_metrics(run_folder),
            run_folder / "report" / "training.png",
            {"box_ap50": "held-out box AP50", "box_ap": "held-out box AP", "mask_ap": "held-out mask AP"},
            accuracy_label="average precision, %",
        )
        results = read_results(run_folder)
        print(f"\n{DETECTION.format(results)}\n\nrun folder: {run_folder}")
        return results


def _with_shared_norms(model: nn.Module, distributed: Distributed) -> nn.Module:
    """Several GPUs share the statistics of the adapter's batch norms, as released: each has few images."""
    if distributed.world_size == 1 or distributed.device.type != "cuda":
        return model
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def _evaluation(detector: Detector, config: DetectorConfig, distributed: Distributed) -> DetectorEvaluation | None:
    """Built before training, so that mistakes in the evaluation data show before hours of it."""
    data = config.evaluate.data
    if data is None:
        return None
    distributed.on_main(lambda: draw_missing_scenes(data))
    return DetectorEvaluation(
        data,
        detector.class_names,
        config.model.masks,
        distributed.device,
        config.evaluate.batch_size,
        config.data.num_workers,
        config.data.max_corrupt_fraction,
    )


def _loader(source: CocoSource, config: DetectorConfig, distributed: Distributed) -> TrainLoader:
    return TrainLoader(
        source,
        DetectionTransform(config.data.augmentation),
        batch_size=config.data.batch_size,
        seed=config.run.seed,
        num_workers=config.data.num_workers,
        rank=distributed.rank,
        world_size=distributed.world_size,
        max_corrupt_fraction=config.data.max_corrupt_fraction,
        pin_memory=distributed.device.type == "cuda",
        collate=collate_detection,
    )


def _announce(detector: Detector, samples: int, loader: TrainLoader, config: DetectorConfig) -> None:
    total = sum(parameter.numel() for parameter in detector.model.parameters())
    steps = loader.steps_per_epoch
    kind = "Mask R-CNN" if config.model.masks else "Faster R-CNN"
    body = f"{config.model.architecture}{' with the adapter' if config.model.adapter else ''}"
    if detector.starting_point:
        print(f"starting from {detector.starting_point}")
    print(
        f"training {kind} over {body} ({total / 1e6:.2f} M parameters) on {samples} images with "
        f"{len(detector.class_names)} classes, {config.train.epochs} epochs of {steps} "
        f"{'step' if steps == 1 else 'steps'}, batch {loader.batch_size}",
        flush=True,
    )


def main(arguments: Sequence[str]) -> None:
    """The command: `[--config FILE.yaml] [key=value ...]`."""
    train(parse_command_line(DetectorConfig, arguments, DESCRIPTION))


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
