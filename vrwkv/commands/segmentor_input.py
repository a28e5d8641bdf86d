"""What the two segmentation commands share: the configuration's arguments, and results in the run folder."""

import argparse
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vrwkv.errors import InputError
from vrwkv.evaluate.results import ResultNames

SEGMENTATION = ResultNames(
    fractions={
        "miou": "mean IoU",
        "mean_accuracy": "mean class accuracy",
        "pixel_accuracy": "pixel accuracy",
        "tta_miou": "mean IoU, test-time aug.",
        "tta_mean_accuracy": "mean class accuracy, TTA",
        "tta_pixel_accuracy": "pixel accuracy, TTA",
    },
    counts={},
)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Overrides, as `key=value` or after mmsegmentation's `--cfg-options`."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings instead of the configuration's")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="key=value", help="the same, mmsegmentation's way"
    )


def prepare_config(file: str | Path, options: argparse.Namespace, work_dir: Path | None) -> Any:
    """The configuration of a command line, fitted to the machine; what was changed is printed.

    Raises:
        InputError: mmsegmentation is not installed, or mistakes in the configuration.
    """
    # What mmcv's and mmsegmentation's modules warn of, no user of a configuration can act on.
    warnings.filterwarnings("ignore", module=r"(mmcv|mmengine|mmseg)\b")
    try:
        # Before anything imports mmseg: mmcv-lite needs an answer for its compiled operators.
        import vrwkv.dense.mmseg  # noqa: F401
    except ImportError as error:
        raise InputError(f"segmentation needs mmsegmentation: pip install 'vrwkv[seg]' ({error})") from error
    from vrwkv.dense.segmentation.config import fit_to_machine, load_segmentor_config

    config = load_segmentor_config(file, [*options.overrides, *options.cfg_options])
    if work_dir is not None:
        config.work_dir = str(work_dir)
    elif config.get("work_dir") is None:
        config.work_dir = str(Path("runs") / Path(file).stem)
    changes = fit_to_machine(config)
    if os.environ.get("RANK", "0") == "0":
        for change in changes:
            print(change, flush=True)
    return config


def report_results(folder: Path, results: Mapping[str, float]) -> None:
    """Merge metrics into results.json and print the folder's table."""
    if results:
        print(SEGMENTATION.format(SEGMENTATION.write(folder, results)))
    print(f"run folder: {folder} (test: test_segmentor.py {folder})")
