"""How do time and memory grow with the size of the image, next to a vision transformer?

`python benchmarks/image_sizes.py` measures VRWKV-T's and timm's ViT-T's features of one image, float32 on the CPU, from
224 to 16384 pixels, and writes docs/benchmarks/image_sizes.md and .json. Every row is a fresh process with a time
limit; the table is written anew after each, so that what was measured survives an interruption. Outputs are checked
before a time is printed: finite everywhere, and at small sizes equal to the portable backend's.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from cpu import DOCS, machine
from cpu_accuracy import relative_error
from cpu_memory import WARM_UP_SIZE
from cpu_models import LARGEST_DIFFERENCE, OURS, VIT, build, images_of, portable_ops
from cpu_report import table
from fresh_process import HOW_TIMED, in_fresh_process, memory_cell, time_cell, timed, write_page

SIZES = (224, 512, 1024, 2048, 4096, 8192, 16384)
LIMIT = 600.0
CHECKED_UP_TO = 512
"""Pixels up to which outputs are compared with the portable backend's, which takes long beyond."""
HOW = (
    "Features of the whole image (`forward_features`), float32, batch 1, random weights and pixels, eager. "
    f"{HOW_TIMED} Every output is finite; up to {CHECKED_UP_TO} px those of vrwkv_tiny agree with the portable "
    "backend's (largest difference below, relative to the largest output). A model that did not finish within the "
    "limit was stopped, and its larger images were not tried."
)


def measure(name: str, size: int) -> dict[str, Any]:
    """Seconds, peak resident bytes and difference from the portable backend of one model at one size, in this process.

    Raises:
        SystemExit: an output is not finite, or too far from the portable backend's.
    """
    model = build(name).eval()
    image = images_of(1, size)
    with torch.inference_mode():
        model.forward_features(images_of(1, min(size, WARM_UP_SIZE)))
        # The peak of what is timed; the portable backend, which needs more, runs afterwards.
        features, found = timed(lambda: model.forward_features(image), f"{name} at {size} px")
        difference = _difference(name, size, lambda: model.forward_features(image), features)
    tokens = features.shape[1] - getattr(model, "num_prefix_tokens", 0)
    return {**found, "tokens": tokens, "difference": difference}


def _difference(name: str, size: int, compute: Callable[[], torch.Tensor], features: torch.Tensor) -> float | None:
    if name != OURS or size > CHECKED_UP_TO:
        return None
    with portable_ops():
        expected = compute()
    difference = relative_error(features, expected)
    if not difference <= LARGEST_DIFFERENCE:
        raise SystemExit(f"{name} at {size} px: {difference:.1e} from the portable backend: not timed")
    return difference


def measure_in_fresh_process(name: str, size: int, limit: float) -> dict[str, Any]:
    """What `measure` finds in a process of its own, or {"stopped": seconds} or {"failed": reason}."""
    return in_fresh_process(__file__, {"name": name, "size": size}, limit)


def measure_all(sizes: Sequence[int], limit: float, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All rows of ours, then all of the rival's; a model that failed or was stopped is not tried on larger images."""
    ascending = sorted(set(sizes))
    raw: dict[str, Any] = {"machine": machine(), "limit": limit, "rows": {str(size): {} for size in ascending}}
    for name in (OURS, VIT):
        gave_up: int | None = None
        for size in ascending:
            logging.info("%s  %s at %s px", time.strftime("%H:%M:%S"), name, size)
            found = measure_in_fresh_process(name, size, limit) if gave_up is None else {"skipped": gave_up}
            if gave_up is None and "seconds" not in found:
                gave_up = size
            raw["rows"][str(size)][name] = found
            report(raw)
    return raw


def render(raw: dict[str, Any]) -> str:
    """The page in Markdown."""
    head = ("image, px", "tokens", "vrwkv_tiny, s", "vit_tiny, s", "ViT / ours", "vrwkv_tiny, MiB", "vit_tiny, MiB")
    cells = []
    differences = []
    for size, row in raw["rows"].items():
        ours, rival = row.get(OURS, {}), row.get(VIT, {})
        ratio = f"{rival['seconds'] / ours['seconds']:.2f}" if "seconds" in ours and "seconds" in rival else "–"
        tokens = next((each["tokens"] for each in (ours, rival) if "tokens" in each), "–")
        cells.append(
            (
                size,
                str(tokens),
                time_cell(ours, raw["limit"]),
                time_cell(rival, raw["limit"]),
                ratio,
                memory_cell(ours),
                memory_cell(rival),
            )
        )
        if ours.get("difference") is not None:
            differences.append(f"{size} px: {ours['difference']:.0e}")
    return "\n".join(
        [
            "# Image sizes",
            "",
            f"{raw['machine']}. `python benchmarks/image_sizes.py` reproduces this page; "
            "image_sizes.json has every pass.",
            "",
            HOW,
            "",
            *table(head, cells),
            f"Largest difference from the portable backend: {', '.join(differences) or 'not compared at these sizes'}.",
            "",
        ]
    )


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="PIXELS", help="default: 224 … 16384")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS", help="of a process (default: 600)")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of the results (default: docs/benchmarks)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.measure is not None:
        request = json.loads(options.measure)
        torch.set_num_threads(request["threads"])
        print(json.dumps(measure(request["name"], request["size"])))
        return
    if min(options.sizes) < 1 or options.limit <= 0:
        parser.error("sizes and the limit must be greater than 0")
    raw = measure_all(
        options.sizes,
        options.limit,
        lambda partial: write_page(partial, render(partial), options.output, "image_sizes"),
    )
    print(render(raw))


if __name__ == "__main__":
    main()
