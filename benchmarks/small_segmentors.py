"""Which backbone learns to segment soonest, in the same small UperNet and budget?

`python benchmarks/small_segmentors.py` trains configs/segmentation/digit_scenes_*.py with three seeds each through
tools/train_segmentor.py, two runs at a time with a thread each, and writes docs/benchmarks/small_segmentors.md and
.json. The table is written anew after each run, and what it has is not trained again.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cpu import DOCS, machine
from cpu_report import table
from fresh_process import write_page

from vrwkv.data.digit_scenes import DigitScenes
from vrwkv.data.scene_files import write_ade20k

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "segmentation"
ROWS = {
    "digit_scenes_vrwkv": "VRWKV, plain",
    "digit_scenes_vrwkv_adapter": "VRWKV with ViT-Adapter",
    "digit_scenes_vit": "ViT, plain",
    "digit_scenes_resnet": "ResNet",
}
SEEDS = (0, 1, 2)
LARGEST_DIFFERENCE_IN_SIZE = 0.1
NAME = "small_segmentors"
RATES = (3e-3, 1e-2)
LAST_STEPS = 100
HOW = (
    "Mean IoU over eleven classes (the canvas and ten digits) on 200 held-out scenes of 128 × 128 pixels, whose scans "
    "are in none of the 1000 training scenes. All rows have the same UperNet, steps, batch, optimiser and schedule "
    "(`configs/segmentation/_base_/schedule_digit_scenes.py`), start from random weights, and differ by their backbone "
    "alone: the plain ones have patches of 8 pixels and mmsegmentation's `Feature2Pyramid`, the adapter patches of 16 "
    "and its own pyramid, the ResNet (ResNetV1c-18, 14 channels at first) its four stages. Each row has the learning "
    f"rate, of {' and '.join(f'{rate:g}' for rate in RATES)}, whose training loss was lower over the last {LAST_STEPS} "
    "steps with the first seed; held-out scenes take part in no choice. Judged once, at the end. Rates beyond the "
    "larger one were not tried for all. Seconds are of one thread, next to other work."
)


def parameters(config: str) -> int:
    """Number of parameters of a configuration's model.

    Raises:
        SystemExit: the model is more than a tenth larger or smaller than the plain VRWKV's.
    """
    warnings.filterwarnings("ignore")
    import vrwkv.dense.mmseg  # noqa: F401 - before anything of mmseg

    # isort: split
    import mmseg.models  # noqa: F401 - registers the heads
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    from vrwkv.dense.segmentation.config import load_segmentor_config

    def count(name: str) -> int:
        with DefaultScope.overwrite_default_scope("mmseg"):
            model = MODELS.build(load_segmentor_config(CONFIGS / f"{name}.py").model)
        return sum(parameter.numel() for parameter in model.parameters())

    own, reference = count(config), count("digit_scenes_vrwkv")
    if abs(own / reference - 1) > LARGEST_DIFFERENCE_IN_SIZE:
        raise SystemExit(f"{config} has {own:,} parameters, digit_scenes_vrwkv {reference:,}: not comparable")
    return own


def train(config: str, seed: int, rate: float, folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Results of one run in a process of its own.

    Raises:
        SystemExit: the run failed; its last line is shown.
    """
    run = folder / f"{config}_{seed}_{rate:g}"
    command = [sys.executable, str(ROOT / "tools" / "train_segmentor.py"), str(CONFIGS / f"{config}.py")]
    overrides = [f"optim_wrapper.optimizer.lr={rate}", "default_hooks.logger.interval=10", *overrides]
    options = ["--work-dir", str(run), "--seed", str(seed), "--overwrite"]
    begun = time.perf_counter()
    finished = subprocess.run(
        [*command, *overrides, *options],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if finished.returncode:
        raise SystemExit(f"{config}, seed {seed}: {(finished.stderr.strip().splitlines() or ['no message'])[-1]}")
    results = json.loads((run / "results.json").read_text())
    seconds = time.perf_counter() - begun
    return {"config": config, "seed": seed, "rate": rate, **results, "loss": _last_loss(run), "seconds": seconds}


def _last_loss(run: Path) -> float:
    """Mean training loss of the last steps; mmengine's lines hold means over the last ten."""
    lines = [json.loads(line) for file in run.glob("*/vis_data/scalars.json") for line in file.read_text().splitlines()]
    losses = [(line["step"], line["decode.loss_ce"]) for line in lines if "decode.loss_ce" in line]
    last = max(step for step, _ in losses)
    return statistics.mean(loss for step, loss in losses if step > last - LAST_STEPS)


def chosen_rate(raw: dict[str, Any], config: str, seed: int) -> float:
    """The learning rate with the lowest training loss for this seed."""
    runs = [run for run in raw["runs"] if run["config"] == config and run["seed"] == seed]
    return min(runs, key=lambda run: run["loss"])["rate"]


def render(raw: dict[str, Any]) -> str:
    """The page in Markdown."""
    cells = []
    for config, title in ROWS.items():
        first = [run for run in raw["runs"] if run["config"] == config and run["seed"] == raw["seeds"][0]]
        if len(first) < len(RATES):
            continue
        rate = chosen_rate(raw, config, raw["seeds"][0])
        runs = [run for run in raw["runs"] if run["config"] == config and run["rate"] == rate]
        values = [100 * run["miou"] for run in runs]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        seconds = statistics.mean(run["seconds"] for run in runs)
        each = ", ".join(f"{value:.1f}" for value in values)
        cells.append(
            (
                title,
                f"{raw['parameters'][config]:,}",
                f"{rate:g}",
                f"{statistics.mean(values):.1f}{spread}",
                each,
                f"{seconds:.0f}",
            )
        )
    head = ("backbone", "parameters, with head", "rate", "mean IoU, %", "each seed, %", "s")
    return "\n".join(
        [
            "# Small segmentors",
            "",
            f"{raw['machine']}. `python benchmarks/{NAME}.py` reproduces this page; {NAME}.json has every run.",
            "",
            HOW,
            "",
            *table(head, cells),
        ]
    )


def main() -> None:
    """Train what is missing, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings for every run")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 0 1 2")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="default: all")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of the results (default: docs/benchmarks)")
    options = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recorded = options.output / f"{NAME}.json"
    asked = {"overrides": options.overrides, "seeds": list(options.seeds)}
    raw: dict[str, Any] = {"machine": machine(), **asked, "runs": []}
    if recorded.exists():
        found = json.loads(recorded.read_text())
        raw["runs"] = found["runs"] if asked.items() <= found.items() else []
    raw["parameters"] = {name: parameters(name) for name in ROWS}

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.processes) as pool:

        def run(entry: tuple[str, int, float]) -> None:
            raw["runs"].append(train(*entry, Path(folder), options.overrides))
            raw["runs"].sort(key=lambda run: (list(ROWS).index(run["config"]), run["rate"], run["seed"]))
            logging.info("%s  %s, seed %s, rate %g", time.strftime("%H:%M:%S"), *entry)
            write_page(raw, render(raw), options.output, NAME)

        def run_all(entries: Sequence[tuple[str, int, float]]) -> None:
            done = {(run["config"], run["seed"], run["rate"]) for run in raw["runs"]}
            list(pool.map(run, [entry for entry in entries if entry not in done]))

        (Path(folder) / "data").mkdir()
        write_ade20k(Path(folder) / "data" / "digit_scenes", DigitScenes("train", 1000), DigitScenes("held_out", 200))
        first, *others = options.seeds
        run_all([(row, first, rate) for row in options.rows for rate in RATES])
        run_all([(row, seed, chosen_rate(raw, row, first)) for seed in others for row in options.rows])
    print(render(raw))


if __name__ == "__main__":
    main()
