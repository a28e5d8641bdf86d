"""What does it take to segment one large image whole, without sliding windows, next to a vision transformer?

`python benchmarks/segmentation_sizes.py` runs the same light head (two convolutions of 128 channels, 19 classes) on
VRWKV-T and on timm's ViT-T in mmsegmentation, float32 on the CPU, from 512 to 4096 pixels, and writes
docs/benchmarks/segmentation_sizes.md and .json. Every row is a fresh process with a time limit. Outputs are checked
before a time is printed: finite everywhere, and at 512 pixels equal to the portable backend's.
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from cpu import DOCS, machine
from cpu_accuracy import relative_error
from cpu_models import LARGEST_DIFFERENCE, images_of, portable_ops
from cpu_report import table
from fresh_process import HOW_TIMED, in_fresh_process, memory_cell, time_cell, timed, write_page
from torch import nn

OURS, VIT = "VRWKV-T", "ViT-T"
SIZES = (512, 1024, 2048, 4096)
CLASSES = 19
LIMIT = 600.0
CHECKED_UP_TO = 512
RECIPE = Path(__file__).parents[1] / "configs" / "segmentation" / "fcn_vrwkv_tiny_512_160k_ade20k.py"
HOW = (
    "Class scores of every pixel (`EncoderDecoder.encode_decode`: backbone at stride 16, FCN head of two convolutions "
    f"with 128 channels, {CLASSES} classes, enlarged to the image's size) and the best class of each, whole image, "
    f"float32, batch 1, random weights and pixels, eager. {HOW_TIMED} At {CHECKED_UP_TO} px the scores agree with the "
    "portable backend's (largest difference below, relative to the largest score). A model that did not finish within "
    "the limit was stopped, and its larger images were not tried."
)


def build(name: str) -> nn.Module:
    """The segmentor of the light recipe with this backbone, the same weights at every call, for inference."""
    warnings.filterwarnings("ignore")
    import vrwkv.dense.mmseg  # noqa: F401 - before anything of mmseg

    # isort: split
    import mmseg.models  # noqa: F401 - registers the heads
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    from vrwkv.dense.segmentation.config import load_segmentor_config

    model = load_segmentor_config(RECIPE, [f"model.decode_head.num_classes={CLASSES}"]).model
    model.backbone.pop("init_cfg")
    if name == VIT:
        model.backbone = {
            "type": "TIMMBackbone",
            "model_name": "vit_tiny_patch16_224",
            "features_only": True,
            "pretrained": False,
            "out_indices": (11,),
            "dynamic_img_size": True,
        }
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(model).eval()


def scores(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """(1, CLASSES, H, W)."""
    return model.encode_decode(image, [{"img_shape": tuple(image.shape[2:])}])  # type: ignore[operator]


def measure(name: str, size: int) -> dict[str, Any]:
    """Seconds, peak resident bytes and difference from the portable backend of one model at one size, in this process.

    Raises:
        SystemExit: an output is not finite, or too far from the portable backend's.
    """
    model, image = build(name), images_of(1, size)
    with torch.inference_mode():
        scores(model, images_of(1, 384))
        _, found = timed(lambda: scores(model, image).argmax(1), f"{name} at {size} px")
        result = scores(model, image) if size <= CHECKED_UP_TO else None
        if result is not None and not result.isfinite().all():
            raise SystemExit(f"{name} at {size} px: a score is not finite: not timed")
        difference = None
        if result is not None and name == OURS:
            with portable_ops():
                difference = relative_error(result, scores(model, image))
            if not difference <= LARGEST_DIFFERENCE:
                raise SystemExit(f"{name} at {size} px: {difference:.1e} from the portable backend: not timed")
    return {**found, "difference": difference}


def measure_all(sizes: Sequence[int], limit: float, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All rows of ours, then all of the rival's; a model that failed or was stopped is not tried on larger images."""
    raw: dict[str, Any] = {"machine": machine(), "limit": limit, "rows": {str(size): {} for size in sorted(set(sizes))}}
    for name in (OURS, VIT):
        gave_up: int | None = None
        for size in sorted(set(sizes)):
            logging.info("%s  %s at %s px", time.strftime("%H:%M:%S"), name, size)
            request = {"name": name, "size": size}
            found = in_fresh_process(__file__, request, limit) if gave_up is None else {"skipped": gave_up}
            if gave_up is None and "seconds" not in found:
                gave_up = size
            raw["rows"][str(size)][name] = found
            report(raw)
    return raw


def render(raw: dict[str, Any]) -> str:
    """The page in Markdown."""
    head = ("image, px", f"{OURS}, s", f"{VIT}, s", "ViT / ours", f"{OURS}, MiB", f"{VIT}, MiB")
    cells, differences = [], []
    for size, row in raw["rows"].items():
        ours, rival = row.get(OURS, {}), row.get(VIT, {})
        ratio = f"{rival['seconds'] / ours['seconds']:.2f}" if "seconds" in ours and "seconds" in rival else "–"
        times = time_cell(ours, raw["limit"]), time_cell(rival, raw["limit"])
        cells.append((size, *times, ratio, memory_cell(ours), memory_cell(rival)))
        if ours.get("difference") is not None:
            differences.append(f"{size} px: {ours['difference']:.0e}")
    return "\n".join(
        [
            "# Segmenting large images whole",
            "",
            f"{raw['machine']}. `python benchmarks/segmentation_sizes.py` reproduces this page; "
            "segmentation_sizes.json has every pass.",
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
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="PIXELS", help="default: 512 … 4096")
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
    if min(options.sizes) < 32 or options.limit <= 0:
        parser.error("sizes must be at least 32 and the limit greater than 0")

    def report(partial: dict[str, Any]) -> None:
        write_page(partial, render(partial), options.output, "segmentation_sizes")

    print(render(measure_all(options.sizes, options.limit, report)))


if __name__ == "__main__":
    main()
