"""The COCO reader: what it gives is what was written, and every mistake in a file is one clear line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vrwkv.data.coco import CocoSource
from vrwkv.data.detection import DetectionSetConfig, build_detection_source
from vrwkv.data.digit_scenes import DigitScenes
from vrwkv.data.source import CorruptSample
from vrwkv.errors import InputError

pytest.importorskip("pycocotools")

SQUARE = {"segmentation": [[1, 2, 5, 2, 5, 8, 1, 8]], "bbox": [1, 2, 4, 6], "category_id": 7, "image_id": 3, "id": 0}


def write(folder: Path, *annotations: dict[str, Any], **changes: Any) -> CocoSource:
    """One image of 12 × 10 pixels; categories whose ids have gaps and no order."""
    Image.new("RGB", (12, 10)).save(folder / "a.png")
    content = {
        "images": [{"id": 3, "file_name": "a.png", "height": 10, "width": 12}],
        "annotations": list(annotations),
        "categories": [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}],
    }
    (folder / "file.json").write_text(json.dumps(content | changes))
    return CocoSource(folder / "file.json", folder)


def test_drawn_scenes_come_back_as_they_were(tmp_path: Path) -> None:
    config = {"kind": "digit_scenes", "path": str(tmp_path / "scenes"), "scenes": 6, "held_out_scenes": 3, "size": 64}
    source = build_detection_source(DetectionSetConfig(**config))  # type: ignore[arg-type]
    assert source.class_names[3] == "three"
    for scene, sample in zip(DigitScenes("train", 6, (64, 64)), source, strict=True):
        assert np.array_equal(sample["masks"], scene.masks)
        assert np.array_equal(sample["boxes"], scene.boxes)
        assert np.array_equal(sample["labels"], scene.labels + 1)
        assert np.abs(np.asarray(sample["image"], dtype=int) - scene.image).mean() < 6  # JPEG
    assert len(build_detection_source(DetectionSetConfig(**config, split="held_out"))) == 3  # type: ignore[arg-type]
    for option, value in (("scenes", 7), ("size", 96)):
        with pytest.raises(InputError, match="remove"):
            build_detection_source(DetectionSetConfig(**{**config, option: value}))  # type: ignore[arg-type]


def test_polygons_run_lengths_and_labels_of_sparse_ids(tmp_path: Path) -> None:
    from pycocotools import mask

    expected = np.zeros((10, 12), dtype=np.uint8)
    expected[2:8, 1:5] = 1
    packed = mask.encode(np.asfortranarray(expected))
    counts = [[12, 6, 4, 6, 4, 6, 4, 6, 72], packed["counts"].decode()]
    encoded = [{**SQUARE, "segmentation": {"size": [10, 12], "counts": each}, "category_id": 90} for each in counts]
    sample = write(tmp_path, SQUARE, *encoded)[0]
    assert sample["labels"].tolist() == [1, 2, 2]
    assert sample["boxes"].tolist() == [[1, 2, 5, 8]] * 3
    for each in sample["masks"]:
        assert np.array_equal(each, expected)


def test_crowds_slivers_and_empty_images(tmp_path: Path) -> None:
    crowd = {**SQUARE, "iscrowd": 1, "segmentation": {"size": [10, 12], "counts": [120]}}
    sliver = {**SQUARE, "bbox": [11.5, 0, 4, 4]}
    source = write(tmp_path, crowd, sliver)
    sample = source[0]
    assert sample["boxes"].shape == (0, 4)
    assert sample["masks"].shape == (0, 10, 12)
    assert len(source.ground_truth().anns) == 2
    with pytest.raises(InputError, match="no image with an object"):
        CocoSource(tmp_path / "file.json", tmp_path, keep_empty=False)
    over_the_edge = write(tmp_path, {**SQUARE, "bbox": [-2, 4, 30, 30]})
    assert over_the_edge[0]["boxes"].tolist() == [[0, 4, 12, 10]]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"category_id": 8}, r"annotation 0 has category_id 8, which is none of the categories \(7 to 90\)"),
        ({"image_id": 4}, "belongs to image 4"),
        ({"bbox": [1, 2, 3]}, r"must have a bbox \[left, top, width, height\]"),
        ({"segmentation": []}, "no segmentation: .*masks=false"),
        ({"segmentation": [[1, 2, 3, 4]]}, "polygons of three corners"),
        ({"segmentation": {"size": [12, 10], "counts": [120]}}, r"size \[12, 10\], but its image is \[10, 12\]"),
    ],
)
def test_mistakes_in_annotations(tmp_path: Path, annotation: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write(tmp_path, {**SQUARE, **annotation})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": []}, "names no categories"),
        ({"images": None}, "lists named images, annotations, categories"),
        ({"images": [{"id": 1, "file_name": "a.png", "height": 1}]}, r"images\[0\] has no 'width'"),
        ({"categories": [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]}, "two categories have the same id"),
    ],
)
def test_mistakes_in_files(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write(tmp_path, SQUARE, **changes)


def test_files_that_are_not_there_or_not_as_said(tmp_path: Path) -> None:
    source = write(tmp_path, SQUARE)
    with pytest.raises(InputError, match=r"nowhere\.json does not exist"):
        CocoSource(tmp_path / "nowhere.json", tmp_path)
    with pytest.raises(InputError, match=r"image folder .* does not exist"):
        CocoSource(tmp_path / "file.json", tmp_path / "nowhere")
    Image.new("RGB", (10, 12)).save(tmp_path / "a.png")
    with pytest.raises(CorruptSample, match=r"has 10×12 pixels, but file\.json says 12×10"):
        source[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(CorruptSample, match="file not found"):
        source[0]
    (tmp_path / "file.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        CocoSource(tmp_path / "file.json", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"annotations": "a.json"}, "needs images"),
        ({"kind": "digit_scenes"}, "needs path"),
        ({"kind": "digit_scenes", "path": "p", "images": "i"}, "images belongs to kind=coco"),
        ({"annotations": "a", "images": "b", "scenes": 3}, "scenes belongs to kind=digit_scenes"),
        ({"kind": "digit_scenes", "path": "p", "scenes": 0}, "scenes must be positive"),
    ],
)
def test_options_that_do_not_fit_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_detection_source(DetectionSetConfig(**options))
