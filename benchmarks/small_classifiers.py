"""Do vrwkv and vrwkv6 learn as well as a vision transformer and a ResNet of the same size?

`python benchmarks/small_classifiers.py` (half an hour on two free cores; it needs scikit-learn and matplotlib) trains
small classifiers from scratch on scanned digits and on characters drawn from fonts: the same budget, schedule and sweep
of learning rates for every row. The rate is chosen on training images set aside; then each seed is trained on all of
them and judged once on the held-out images. Nothing is trained before the models are found to be of the same size.
Writes docs/benchmarks/small_classifiers.md and .json after every run; started again, it goes on.
"""

import argparse
import itertools
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cpu import DOCS, processor, versions
from small_classifiers_report import chosen_rate, render, result_of, run_of
from small_classifiers_runs import Plan, Run, count_parameters, start_worker, training

from vrwkv.atomic_write import atomic_write
from vrwkv.errors import InputError

NAME = "small_classifiers"
Report = Callable[[dict[str, Any]], None]


def runs_of(plan: Plan, raw: dict[str, Any]) -> list[Run]:
    """Every run that can be named by now: those that choose the rates, and the seeds of rows whose rate is chosen."""
    runs = []
    for row, data in itertools.product(plan.rows, plan.data):
        runs += [Run(data, row, rate, plan.tuning_seed, True) for rate in plan.learning_rates]
        rate = chosen_rate(raw, plan, data, row)
        if rate is not None:
            runs += [Run(data, row, rate, seed, False) for seed in plan.seeds]
    return runs


def start(plan: Plan, folder: Path) -> dict[str, Any]:
    """The results that are in `folder` already, or none.

    Raises:
        SystemExit: they belong to another plan, or the models are not of the same size.
    """
    parameters = {data: {row: count_parameters(data)[row] for row in plan.rows} for data in plan.data}
    file = folder / f"{NAME}.json"
    if not file.exists():
        machine = f"{processor()}, {os.cpu_count()} cores, {', '.join(versions())}"
        return {"machine": machine, "plan": plan.content(), "parameters": parameters, "runs": []}
    raw = json.loads(file.read_text(encoding="utf-8"))
    if raw["plan"] != plan.content() or raw["parameters"] != parameters:
        raise SystemExit(f"{file} holds results of another plan: delete it, or name another --output")
    return raw


def measure(plan: Plan, raw: dict[str, Any], pool: Executor, processes: int, report: Report) -> None:
    """Do what is missing in `raw`, the results so far, and report after every run.

    Args:
        plan: what to train.
        raw: from `start`; receives the results.
        pool: where runs take place.
        processes: runs at a time.
        report: called with `raw`.
    """
    running: dict[Future[dict[str, Any]], Run] = {}
    while True:
        open_runs = [run for run in runs_of(plan, raw) if result_of(raw, run) is None and run not in running.values()]
        for run in open_runs[: processes - len(running)]:
            running[pool.submit(training, run)] = run
        if not running:
            return
        for finished in wait(running, return_when=FIRST_COMPLETED).done:
            run, result = running.pop(finished), finished.result()
            raw["runs"].append({**asdict(run), **result})
            logging.info("%s  %s: %s", time.strftime("%H:%M:%S"), run, result)
            report(raw)


def write(raw: dict[str, Any], plan: Plan, folder: Path) -> None:
    """Both files, complete or as they were."""
    folder.mkdir(parents=True, exist_ok=True)
    order = {run: position for position, run in enumerate(runs_of(plan, raw))}
    raw["runs"].sort(key=lambda each: order[run_of(each)])
    atomic_write(folder / f"{NAME}.json", json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
    atomic_write(folder / f"{NAME}.md", render(raw, plan))


def main() -> None:
    """Train what is missing, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs at a time (default: one a core)")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of the results (default: docs/benchmarks)")
    options = parser.parse_args()
    if options.processes < 1:
        parser.error("--processes must be at least 1")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    plan = Plan()
    pool = ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn"), start_worker)
    try:
        raw = start(plan, options.output)
        measure(plan, raw, pool, options.processes, lambda partial: write(partial, plan, options.output))
        print(render(raw, plan))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    finally:
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main()
