"""Train a segmentor from a configuration of mmsegmentation 1.x, on CPU or GPU, alone or under torchrun."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vrwkv.command import run_command
from vrwkv.commands.segmentor_input import add_config_arguments, prepare_config, report_results
from vrwkv.errors import InputError

EPILOG = """examples:
  train_segmentor.py configs/segmentation/digit_scenes_vrwkv.py                    draws its data; 4 minutes on 2 cores
  train_segmentor.py configs/segmentation/upernet_vrwkv_adapter_tiny_512_160k_ade20k.py \\
      model.backbone.init_cfg.checkpoint=vrwkv_t_in1k_224.pth
  train_segmentor.py CONFIG --resume                                               go on after an interruption
  torchrun --nproc-per-node 8 tools/train_segmentor.py CONFIG

The run folder gets checkpoints, a log with the time that is left, curves for TensorBoard, drawings of validation
images, results.json and model.safetensors. test_segmentor.py RUN tests it."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="train_segmentor.py",
        description="Train a segmentor from a configuration of mmsegmentation 1.x.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="configuration file, or a recipe that came with the package")
    add_config_arguments(parser)
    parser.add_argument("--work-dir", type=Path, metavar="DIR", help="run folder (default: runs/NAME OF THE CONFIG)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the run folder")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the run folder")
    parser.add_argument("--amp", action="store_true", help="mixed precision (needs a GPU)")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of everything random (default: the config's)")
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command."""
    options = parser().parse_intermixed_args(arguments)
    config = prepare_config(options.config, options, options.work_dir)
    from vrwkv.dense.segmentation.runner import newest_checkpoint, train_segmentor

    work_dir = Path(config.work_dir)
    is_main = os.environ.get("RANK", "0") == "0"
    found = newest_checkpoint(work_dir)
    if found is not None and not (options.resume or options.overwrite) and is_main:
        raise InputError(
            f"{work_dir} holds a run already ({found.name}): give --resume, --overwrite or another --work-dir"
        )
    if options.overwrite and options.resume:
        raise InputError("--resume and --overwrite exclude each other")
    if options.overwrite and is_main:
        for file in (*work_dir.glob("*.pth"), *work_dir.glob("last_checkpoint")):
            file.unlink()
    config.resume = options.resume and found is not None
    if options.resume and found is None and is_main:
        print(f"no checkpoint in {work_dir} yet: starting anew", flush=True)
    if options.seed is not None:
        config.randomness = {**(config.get("randomness") or {}), "seed": options.seed}
    if options.amp:
        _mixed_precision(config)
    results = train_segmentor(config)
    if is_main:
        report_results(work_dir, results)


def _mixed_precision(config: Any) -> None:
    if not torch.cuda.is_available():
        raise InputError("--amp needs a GPU: mmengine has no mixed precision on the CPU")
    config.optim_wrapper.type = "AmpOptimWrapper"
    config.optim_wrapper.setdefault("loss_scale", "dynamic")


def console() -> None:
    """Entry point of the console command."""
    run_command(main)


if __name__ == "__main__":
    console()
