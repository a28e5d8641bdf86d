"""Average precision: 1 for the truth itself, less for less, and values that can be counted by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vrwkv.data.coco import CocoSource
from vrwkv.data.detection import DetectionSetConfig, build_detection_source
from vrwkv.evaluate.detection import Predictions, average_precisions, coco_results
from vrwkv.evaluate.detection_figure import class_colours, draw_detections
from vrwkv.evaluate.detection_results import DETECTION, write_precision_table
from vrwkv.figure import save_figure

pytest.importorskip("pycocotools")
IDS = list(range(1, 11))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> CocoSource:
    folder = str(tmp_path_factory.mktemp("scenes") / "set")
    return build_detection_source(
        DetectionSetConfig(kind="digit_scenes", path=folder, scenes=8, held_out_scenes=1, size=64)
    )


def truth_as_predictions(source: CocoSource, shift: float = 0.0) -> Predictions:
    """The true boxes, moved to the right, and masks, moved by whole pixels."""
    found = Predictions([], list(source.image_ids))
    for number, sample in zip(source.image_ids, source, strict=True):
        masks = np.roll(sample["masks"], round(shift), axis=2)
        output = {
            "boxes": torch.from_numpy(sample["boxes"] + np.float32([shift, 0, shift, 0])),
            "labels": torch.from_numpy(sample["labels"]),
            "scores": torch.full((len(masks),), 0.9),
            "masks": torch.from_numpy(masks[:, None]).float(),
        }
        found.results.extend(coco_results(output, number, IDS))
    return found


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_the_truth_is_perfect_and_a_shifted_one_is_not(source: CocoSource, kind: str) -> None:
    perfect, by_class = average_precisions(source.ground_truth(), truth_as_predictions(source), kind, IDS)
    assert perfect == pytest.approx({f"{kind}_ap": 1.0, f"{kind}_ap50": 1.0, f"{kind}_ap75": 1.0})
    present = {int(label) for sample in source for label in sample["labels"]}
    assert {number for number, value in by_class.items() if value is not None} == present
    shifted, _ = average_precisions(source.ground_truth(), truth_as_predictions(source, shift=2.0), kind, IDS)
    assert 0 < shifted[f"{kind}_ap"] < 0.8
    assert shifted[f"{kind}_ap75"] <= shifted[f"{kind}_ap50"]


def test_a_found_half_counts_half_and_false_ones_before_it_count_against_it(source: CocoSource) -> None:
    """One class in one image: one of two objects found, then the same behind a higher-scored false one."""
    number = source.image_ids[0]
    truth = source.ground_truth()
    truth.dataset["annotations"] = [
        {"id": place, "image_id": number, "category_id": 1, "bbox": box, "area": 100, "iscrowd": 0}
        for place, box in enumerate(([0, 0, 10, 10], [30, 30, 10, 10]), start=1)
    ]
    truth.createIndex()
    hit = {"image_id": number, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.5}
    # 51 of COCO's 101 points of recall lie at a half and below.
    half, _ = average_precisions(truth, Predictions([hit], [number]), "box", IDS)
    assert half["box_ap50"] == pytest.approx(51 / 101)
    false = {**hit, "bbox": [50, 0, 10, 10], "score": 0.8}
    worse, by_class = average_precisions(truth, Predictions([hit, false], [number]), "box", IDS)
    assert worse["box_ap50"] == pytest.approx(51 / 101 / 2)
    assert by_class[2] is None


def test_nothing_found_and_nothing_to_find(source: CocoSource) -> None:
    none, _ = average_precisions(source.ground_truth(), Predictions([], source.image_ids), "mask", IDS)
    assert none == {"mask_ap": 0.0, "mask_ap50": 0.0, "mask_ap75": 0.0}
    unseen, _ = average_precisions(source.ground_truth(), Predictions([], []), "box", IDS)
    assert unseen["box_ap"] is None


def test_only_images_that_were_looked_at_count(source: CocoSource) -> None:
    found = truth_as_predictions(source)
    first = source.image_ids[0]
    seen = Predictions([each for each in found.results if each["image_id"] == first], [first])
    assert average_precisions(source.ground_truth(), seen, "box", IDS)[0]["box_ap"] == pytest.approx(1)
    assert (
        average_precisions(source.ground_truth(), Predictions(seen.results, source.image_ids), "box", IDS)[0]["box_ap"]
        < 1
    )


def test_pictures_and_tables(source: CocoSource, tmp_path: Path) -> None:
    sample = source[0]
    output = {
        "boxes": torch.from_numpy(sample["boxes"]),
        "labels": torch.from_numpy(sample["labels"]),
        "scores": torch.linspace(0, 1, len(sample["labels"])),
        "masks": torch.from_numpy(sample["masks"][:, None]).float(),
    }
    figure = draw_detections([sample["image"]] * 5, [output] * 5, source.class_names, threshold=0.5)
    drawn = figure.axes[0]
    above = int((output["scores"] >= 0.5).sum())
    assert len(drawn.patches) == len(drawn.texts) == above
    assert drawn.texts[-1].get_text() == f"{source.class_names[sample['labels'][-1] - 1]} 1.00"
    pixels = drawn.images[0].get_array()
    changed = np.abs(pixels - np.asarray(sample["image"]) / 255).max(-1) > 1e-6
    assert not changed[~sample["masks"][-above:].any(0).astype(bool)].any()
    assert changed.any()
    save_figure(figure, tmp_path / "figure.png")
    assert len({tuple(colour) for colour in class_colours(80)}) == 80
    boxes_only = {name: value for name, value in output.items() if name != "masks"}
    draw_detections([sample["image"]], [boxes_only], source.class_names)
    write_precision_table(["a", "b"], {"box": [0.5, None], "mask": [1.0, 0.25]}, tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == "class,box_ap,mask_ap\na,0.500000,1.000000\nb,,0.250000\n"
    results = DETECTION.write(tmp_path, {"box_ap": 0.25, "images": 3, "mask_ap": None})
    assert "box AP                       25.00 %" in DETECTION.format(results)
