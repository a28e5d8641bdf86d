"""Average precision of boxes and masks as COCO defines it, through pycocotools."""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vrwkv.device import to_device
from vrwkv.evaluate.mode import evaluation_mode, progress

KINDS = {"box": "bbox", "mask": "segm"}
"""Our names of what is compared, and pycocotools'."""
MASK_THRESHOLD = 0.5
_THRESHOLD_50, _THRESHOLD_75 = 0, 5
"""Positions of these overlaps among COCO's ten."""


@dataclass(frozen=True)
class Predictions:
    """What a detector found.

    Attributes:
        results: one entry for each detection, in COCO's form of results; masks as compressed run lengths.
        image_ids: of the images that were looked at.
    """

    results: list[dict[str, Any]]
    image_ids: list[int]


def detect(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    device: torch.device | str = "cpu",
) -> Predictions:
    """Run a detector of torchvision's kind over images.

    Args:
        model: on `device`; put into eval mode meanwhile.
        batches: with "image" (a list of (3, H, W) in [0, 1]) and "index" (B,), the images' positions in `image_ids`.
        image_ids: COCO's ids of the images.
        category_ids: COCO's ids of labels 1, 2, …
        device: where the model is.
    """
    found = Predictions([], [])
    with evaluation_mode(model), torch.inference_mode():
        for batch in progress(batches, "detecting"):
            outputs = model(to_device(batch["image"], device))
            for index, output in zip(batch["index"].tolist(), outputs, strict=True):
                found.image_ids.append(image_ids[index])
                found.results.extend(coco_results(output, image_ids[index], category_ids))
    return found


def coco_results(output: Mapping[str, Tensor], image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The detections of one image in COCO's form of results.

    Args:
        output: "boxes" (N, 4) left, top, right, bottom; "labels" (N,) from 1; "scores" (N,); for masks, "masks"
            (N, 1, H, W) in [0, 1].
        image_id: COCO's id of the image.
        category_ids: COCO's ids of labels 1, 2, …
    """
    boxes = output["boxes"].double().cpu()
    corners = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    results = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": corner, "score": score}
        for label, corner, score in zip(output["labels"].tolist(), corners, output["scores"].tolist(), strict=True)
    ]
    if "masks" in output:
        from pycocotools import mask

        masks = (output["masks"][:, 0] >= MASK_THRESHOLD).byte().cpu().numpy()
        for result, each in zip(results, masks, strict=True):
            result["segmentation"] = mask.encode(np.asfortranarray(each))
    return results


def average_precisions(
    ground_truth: Any, predictions: Predictions, kind: str, category_ids: Sequence[int]
) -> tuple[dict[str, float | None], dict[int, float | None]]:
    """COCO's average precision, with at most 100 detections of an image, crowds left out of account.

    Args:
        ground_truth: pycocotools' `COCO`; only the images of `predictions` count.
        predictions: what was found.
        kind: "box" or "mask".
        category_ids: of the classes.

    Returns:
        `{kind}_ap` (mean over overlaps of 50 to 95 %), `{kind}_ap50` and `{kind}_ap75`, as fractions; and the first of
        them for each category id. None where there is no object to find.
    """
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(ground_truth, _loaded(ground_truth, predictions.results), KINDS[kind])
        evaluation.params.imgIds = sorted(predictions.image_ids)
        evaluation.params.catIds = list(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
    # overlaps × recalls × classes × sizes of objects × numbers of detections: objects of all sizes, most detections
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    totals = {
        f"{kind}_ap": _mean(precision),
        f"{kind}_ap50": _mean(precision[_THRESHOLD_50]),
        f"{kind}_ap75": _mean(precision[_THRESHOLD_75]),
    }
    return totals, {number: _mean(precision[:, :, place]) for place, number in enumerate(category_ids)}


def _mean(precision: np.ndarray) -> float | None:
    """Mean of what COCO has filled in; it writes -1 where a class has no object."""
    present = precision[precision > -1]
    return float(present.mean()) if present.size else None


def _loaded(ground_truth: Any, results: list[dict[str, Any]]) -> Any:
    """pycocotools cannot load an empty list."""
    from pycocotools.coco import COCO

    if results:
        # It adds keys to what it is given.
        return ground_truth.loadRes([dict(result) for result in results])
    empty = COCO()
    empty.dataset = {"images": ground_truth.dataset["images"], "annotations": [], "categories": []}
    empty.createIndex()
    return empty
