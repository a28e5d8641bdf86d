"""Evaluate a trained detector on annotated images, or draw what it finds in images of one's own."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from vrwkv.command import run_command
from vrwkv.commands.detector_evaluation import DetectorEvaluation, detector_input
from vrwkv.data.detection import DetectionSetConfig
from vrwkv.data.image_file import read_image
from vrwkv.errors import InputError
from vrwkv.evaluate.detection_figure import draw_detections
from vrwkv.evaluate.detection_results import DETECTION
from vrwkv.figure import save_figure
from vrwkv.objectives.detection_config import DetectorConfig
from vrwkv.objectives.detector import Detector, load_detector
from vrwkv.training.configuration import load_config
from vrwkv.training.distributed import choose_device

EPILOG = """examples:
  eval_detector.py runs/mine                                     the evaluation set of the run's configuration
  eval_detector.py runs/mine --data annotations=own/test.json images=own/test
  eval_detector.py runs/mine --image street.jpg --output found   draws into found/street_detections.png

Keys of --data are those of evaluate.data in train_detector.py --help. Numbers go into RUN/results.json, the table of
classes and predictions.png into RUN/report/; with --output DIR, they go there."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="eval_detector.py",
        description="Evaluate a trained detector: COCO's average precision of boxes and masks.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="run folder of train_detector.py, or its model.safetensors")
    parser.add_argument("--data", nargs="+", metavar="KEY=VALUE", help="annotated images, not the run's evaluation set")
    parser.add_argument("--image", nargs="+", metavar="FILE", help="draw what is found in these images instead")
    parser.add_argument("--threshold", type=float, default=0.5, help="score from which to draw (default: 0.5)")
    parser.add_argument("--pictures", type=int, default=8, help="evaluated images to draw (default: 8)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for results (default: the run folder)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--batch-size", type=int, default=8, help="images at once (default: 8)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that decode images (default: 0)")
    parser.add_argument(
        "--max-corrupt-fraction", type=float, default=0.01, help="share of unreadable images to skip (default: 0.01)"
    )
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command."""
    options = parser().parse_args(arguments)
    if not 0 <= options.threshold <= 1:
        raise InputError(f"--threshold must lie between 0 and 1, got {options.threshold}")
    device = choose_device(options.device)
    detector = load_detector(options.run, device)
    if options.image:
        if options.data:
            raise InputError("give --image or --data, not both")
        _draw(detector, options.image, _folder(options), options.threshold, device)
        return
    evaluation = DetectorEvaluation(
        _data(options),
        detector.class_names,
        detector.config.masks,
        device,
        options.batch_size,
        options.num_workers,
        options.max_corrupt_fraction,
    )
    folder = _folder(options)
    results = evaluation.record(detector.model, folder, options.pictures, options.threshold)
    print(f"{DETECTION.format(results)}\n\nresults: {folder / 'results.json'}\nreport:  {folder / 'report'}")


def _data(options: argparse.Namespace) -> DetectionSetConfig:
    if options.data:
        return load_config(DetectionSetConfig, None, options.data)
    file = Path(options.run) / "config.yaml"
    data = load_config(DetectorConfig, file).evaluate.data if file.is_file() else None
    if data is None:
        raise InputError(f"{options.run} names no evaluation set: give --data annotations=FILE.json images=DIR")
    return data


def _folder(options: argparse.Namespace) -> Path:
    """Where results go; made if it is not there."""
    run = Path(options.run)
    folder = options.output or (run if run.is_dir() else run.parent)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder} is a file, not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _draw(detector: Detector, files: Sequence[str], folder: Path, threshold: float, device: torch.device) -> None:
    """One picture for each image file, under its name, and what was found in words."""
    pictures = [read_image(file) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        with torch.inference_mode():
            output = detector.model([detector_input(picture, device)])[0]
        path = folder / f"{Path(file).stem}_detections.png"
        save_figure(draw_detections([picture], [output], detector.class_names, threshold, width=8.0), path)
        labels, scores = output["labels"].tolist(), output["scores"].tolist()
        named = [(detector.class_names[label - 1], score) for label, score in zip(labels, scores, strict=True)]
        found = ", ".join(f"{name} {score:.2f}" for name, score in named if score >= threshold)
        print(f"{file}: {found or 'nothing found'} ({path})")


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
