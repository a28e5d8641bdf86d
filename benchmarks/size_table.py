"""A table of time and memory by image size, ours beside a rival, written anew after each measurement."""

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cpu import DOCS, machine
from cpu_report import table
from fresh_process import in_fresh_process, memory_cell, time_cell, write_page

LIMIT = 600.0
"""Seconds of a process."""


@dataclass(frozen=True)
class SizeTable:
    """What one of these tables is about.

    Attributes:
        script: the file that measures one row when it is run with `--measure`.
        title: of the page.
        how: what was measured, for the page.
        ours, rival: names of the two models.
        sizes: pixels on each side.
        least_size: the smallest that can be asked for.
        measure: "seconds", "all", "peak_bytes", "difference" and possibly "tokens" of a model at a size.
    """

    script: str
    title: str
    how: str
    ours: str
    rival: str
    sizes: Sequence[int]
    least_size: int
    measure: Callable[[str, int], dict[str, Any]]

    @property
    def name(self) -> str:
        """Of the page's files."""
        return Path(self.script).stem

    def measure_all(
        self, sizes: Sequence[int], limit: float, report: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """All rows of ours, then the rival's; a model that failed or was stopped is not tried on larger images."""
        ascending = sorted(set(sizes))
        raw: dict[str, Any] = {"machine": machine(), "limit": limit, "rows": {str(size): {} for size in ascending}}
        for name in (self.ours, self.rival):
            gave_up: int | None = None
            for size in ascending:
                logging.info("%s  %s at %s px", time.strftime("%H:%M:%S"), name, size)
                request = {"name": name, "size": size}
                found = in_fresh_process(self.script, request, limit) if gave_up is None else {"skipped": gave_up}
                if gave_up is None and "seconds" not in found:
                    gave_up = size
                raw["rows"][str(size)][name] = found
                report(raw)
        return raw

    def render(self, raw: dict[str, Any]) -> str:
        """The page in Markdown."""
        rows = [(size, row.get(self.ours, {}), row.get(self.rival, {})) for size, row in raw["rows"].items()]
        with_tokens = any("tokens" in each for _, *both in rows for each in both)
        cells = []
        for size, ours, rival in rows:
            ratio = f"{rival['seconds'] / ours['seconds']:.2f}" if "seconds" in ours and "seconds" in rival else "–"
            tokens = str(next((each["tokens"] for each in (ours, rival) if "tokens" in each), "–"))
            times = time_cell(ours, raw["limit"]), time_cell(rival, raw["limit"])
            cells.append((size, *([tokens] * with_tokens), *times, ratio, memory_cell(ours), memory_cell(rival)))
        ours_shown, rival_shown = (name.partition("_patch")[0] for name in (self.ours, self.rival))
        columns = (f"{ours_shown}, s", f"{rival_shown}, s", "ViT / ours", f"{ours_shown}, MiB", f"{rival_shown}, MiB")
        differences = [
            f"{size} px: {ours['difference']:.0e}" for size, ours, _ in rows if ours.get("difference") is not None
        ]
        return "\n".join(
            [
                f"# {self.title}",
                "",
                f"{raw['machine']}. `python benchmarks/{self.name}.py` reproduces this page; "
                f"{self.name}.json has every pass.",
                "",
                self.how,
                "",
                *table(("image, px", *(["tokens"] * with_tokens), *columns), cells),
                "Largest difference from the portable backend: "
                f"{', '.join(differences) or 'not compared at these sizes'}.",
                "",
            ]
        )

    def main(self, description: str) -> None:
        """The command: measure, print and write the table."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        sizes = f"default: {self.sizes[0]} … {self.sizes[-1]}"
        parser.add_argument("--sizes", type=int, nargs="+", default=self.sizes, metavar="PIXELS", help=sizes)
        parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS", help="of a process (default: 600)")
        parser.add_argument("--output", type=Path, default=DOCS, help="folder of results (default: docs/benchmarks)")
        parser.add_argument("--measure", help=argparse.SUPPRESS)
        options = parser.parse_args()
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        if options.measure is not None:
            request = json.loads(options.measure)
            torch.set_num_threads(request["threads"])
            print(json.dumps(self.measure(request["name"], request["size"])))
            return
        if min(options.sizes) < self.least_size or options.limit <= 0:
            parser.error(f"sizes must be at least {self.least_size} and the limit must be greater than 0")

        def report(partial: dict[str, Any]) -> None:
            write_page(partial, self.render(partial), options.output, self.name)

        print(self.render(self.measure_all(options.sizes, options.limit, report)))
