"""Does fine-tuning after masked pretraining beat training from scratch at the same budget?

`python benchmarks/mae_finetuning.py` (about half an hour on two cores; it needs scikit-learn) trains the small
classifier of configs/classification/digits_nano.yaml from a few labels a class: after pretraining, from scratch with as
many steps, and from scratch with the budget of both stages. Every row gets the same sweep of learning rates, chosen on
images of their own. Writes docs/benchmarks/mae_finetuning.md and .json after every run; started again, it goes on.
"""

import argparse
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from cpu import DOCS, machine
from mae_finetuning_report import render
from mae_finetuning_runs import FINE_TUNED, ROWS, Plan, Run, pretraining, start_worker, training

from vrwkv.atomic_write import atomic_write
from vrwkv.errors import InputError

NAME = "mae_finetuning"
Report = Callable[[dict[str, Any]], None]


def runs_of(plan: Plan) -> list[Run]:
    """Every training of a classifier."""
    return [
        Run(labels, row, rate, seed)
        for labels in plan.labels_per_class
        for row in ROWS
        for rate in plan.learning_rates
        for seed in plan.seeds
    ]


def start(plan: Plan, folder: Path) -> dict[str, Any]:
    """The results that are in `folder` already, or none. Those of a plan with fewer numbers of labels count.

    Raises:
        SystemExit: they belong to another plan.
    """
    file = folder / f"{NAME}.json"
    if not file.exists():
        return {"machine": machine(), "plan": plan.content(), "pretraining": {}, "runs": []}
    raw = json.loads(file.read_text(encoding="utf-8"))
    if not plan.extends(raw["plan"]):
        raise SystemExit(f"{file} holds results of another plan: delete it, or name another --output")
    return {**raw, "plan": plan.content()}


def measure(plan: Plan, raw: dict[str, Any], weights: Path, processes: int, report: Report) -> None:
    """Do what is missing in `raw`, the results so far, and report after every run.

    Args:
        plan: what to train.
        raw: from `start`; receives the results.
        weights: folder of the pretrained backbones.
        processes: runs at a time, one thread each.
        report: called with `raw`.
    """
    finished = {Run(each["labels"], each["row"], each["rate"], each["seed"]) for each in raw["runs"]}
    missing = [run for run in runs_of(plan) if run not in finished]
    backbones = {seed: weights / f"seed{seed}" for seed in plan.seeds}
    # Weights that are gone are made again where a run needs them, though their numbers stand.
    lost = {
        run.seed
        for run in missing
        if run.row == FINE_TUNED and not (backbones[run.seed] / "model.safetensors").is_file()
    }
    to_pretrain = [seed for seed in plan.seeds if seed in lost or str(seed) not in raw["pretraining"]]
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), start_worker)
    try:
        jobs: dict[Future, int | Run] = {
            pool.submit(pretraining, plan, seed, backbones[seed]): seed for seed in to_pretrain
        }
        for labels, needs_weights in product(plan.labels_per_class, (False, True)):
            # What starts from pretrained weights comes when all of them are there.
            runs = [run for run in missing if (run.labels, run.row == FINE_TUNED) == (labels, needs_weights)]
            jobs |= {pool.submit(training, plan, run, backbones[run.seed]): run for run in runs}
            for job in as_completed(jobs):
                _keep(raw, jobs[job], job.result())
                report(raw)
            jobs = {}
    finally:
        pool.shutdown(cancel_futures=True)


def _keep(raw: dict[str, Any], what: int | Run, result: dict[str, Any]) -> None:
    if isinstance(what, Run):
        raw["runs"].append({**asdict(what), **result})
        said = f"{what.labels} labels a class, {what.row}, {what.rate:g}, seed {what.seed}"
    else:
        raw["pretraining"].setdefault(str(what), result)
        said = f"pretraining, seed {what}"
    logging.info("%s  %s: %s", time.strftime("%H:%M:%S"), said, result)


def write(raw: dict[str, Any], plan: Plan, folder: Path) -> None:
    """Both files, complete or as they were."""
    folder.mkdir(parents=True, exist_ok=True)
    order = {run: position for position, run in enumerate(runs_of(plan))}
    raw["runs"].sort(key=lambda each: order[Run(each["labels"], each["row"], each["rate"], each["seed"])])
    atomic_write(folder / f"{NAME}.json", json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
    atomic_write(folder / f"{NAME}.md", render(raw, plan))


def main() -> None:
    """Train what is missing, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs at a time (default: one a core)")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of the results (default: docs/benchmarks)")
    parser.add_argument(
        "--weights",
        type=Path,
        default=DOCS.parents[1] / "runs" / NAME,
        help="folder of the pretrained backbones (default: runs/mae_finetuning)",
    )
    options = parser.parse_args()
    if options.processes < 1:
        parser.error("--processes must be at least 1")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    plan = Plan()
    try:
        raw = start(plan, options.output)
        measure(plan, raw, options.weights, options.processes, lambda partial: write(partial, plan, options.output))
        print(render(raw, plan))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
