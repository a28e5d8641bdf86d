"""Test segmentors: mean IoU of a run, of a checkpoint or of a published file, and drawings of the predictions."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vrwkv.command import run_command
from vrwkv.commands.segmentor_input import add_config_arguments, prepare_config, report_results
from vrwkv.errors import InputError

EPILOG = """examples:
  test_segmentor.py runs/digit_scenes_vrwkv --show-dir drawings
  test_segmentor.py configs/segmentation/upernet_vrwkv_adapter_tiny_512_160k_ade20k.py \\
      --checkpoint upernet_vrwkv_adapter_tiny_512_160k_ade20k.pth --tta
  torchrun --nproc-per-node 8 tools/test_segmentor.py RUN"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="test_segmentor.py",
        description="Test a segmentor on its configuration's test set.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="run folder of train_segmentor.py, or a configuration")
    add_config_arguments(parser)
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="weights (default: the run's model.safetensors)"
    )
    parser.add_argument(
        "--work-dir", type=Path, metavar="DIR", help="where results and logs go (default: the run folder)"
    )
    parser.add_argument("--show-dir", type=Path, metavar="DIR", help="draw every image with its predicted classes")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the predicted class maps as PNG files")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation: the config's tta_pipeline")
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command."""
    options = parser().parse_intermixed_args(arguments)
    run = Path(options.run)
    is_run = run.is_dir()
    checkpoint = options.checkpoint or (_weights(run) if is_run else None)
    if checkpoint is None:
        raise InputError(f"{run} is a configuration: give the weights with --checkpoint FILE")
    file = _configuration(run) if is_run else run
    folder = options.work_dir or (run if is_run else None)
    config = prepare_config(file, options, folder)
    if options.show_dir is not None:
        _draw_all(config, options.show_dir)
    if options.out is not None:
        config.test_evaluator = {**config.test_evaluator, "output_dir": str(options.out), "keep_results": True}
    from vrwkv.dense.segmentation.runner import evaluate_segmentor

    results = evaluate_segmentor(config, checkpoint, test_time_augmentation=options.tta)
    if os.environ.get("RANK", "0") == "0":
        prefix = "tta_" if options.tta else ""
        report_results(Path(config.work_dir), {prefix + name: value for name, value in results.items()})


def _configuration(run: Path) -> Path:
    """The configuration that training wrote into the run folder."""
    found = sorted(run.glob("*.py"))
    if len(found) != 1:
        count = "no configuration" if not found else f"{len(found)} configurations"
        raise InputError(
            f"{run} has {count}: a run folder of train_segmentor.py has one; name it instead of the folder"
        )
    return found[0]


def _weights(run: Path) -> Path:
    from vrwkv.dense.segmentation.runner import WEIGHTS, newest_checkpoint

    found = run / WEIGHTS if (run / WEIGHTS).is_file() else newest_checkpoint(run)
    if found is None:
        raise InputError(f"{run} has neither {WEIGHTS} nor a checkpoint: train first, or give --checkpoint FILE")
    return found


def _draw_all(config: Any, folder: Path) -> None:
    if "visualizer" not in config or "visualization" not in config.get("default_hooks", {}):
        raise InputError("--show-dir needs a visualizer and default_hooks.visualization in the configuration")
    config.default_hooks.visualization = {**config.default_hooks.visualization, "draw": True, "interval": 1}
    config.visualizer.save_dir = str(folder)
    config.visualizer.vis_backends = [{"type": "LocalVisBackend"}]


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
