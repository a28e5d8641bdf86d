"""Scenes of digits: functions of split, index and seed, labelled to the pixel, written in both formats."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vrwkv.data.digit_scenes import DIGITS_IN_A_SCENE, DigitScenes
from vrwkv.data.scene_files import class_map, run_lengths, write_ade20k, write_coco
from vrwkv.errors import InputError


def test_a_scene_is_a_function_of_its_index() -> None:
    scenes = DigitScenes("train", 5, (96, 80), seed=3)
    first, again = scenes[2], DigitScenes("train", 9, (96, 80), seed=3)[2]
    assert first.image.shape == (96, 80, 3)
    for name in ("image", "masks", "labels"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    others = (scenes[3], DigitScenes("train", 5, (96, 80), seed=4)[2], DigitScenes("held_out", 5, (96, 80), seed=3)[2])
    assert not any(np.array_equal(first.image, other.image) for other in others)
    assert len(list(scenes)) == 5
    with pytest.raises(IndexError):
        scenes[5]


def test_masks_and_boxes_say_where_the_digits_are() -> None:
    counts = []
    for scene in DigitScenes("held_out", 20):
        counts.append(len(scene.labels))
        assert scene.masks.shape == (len(scene.labels), 128, 128)
        assert scene.masks.sum(0).max() == 1, "no pixel belongs to two digits"
        assert scene.labels.min() >= 0
        assert scene.labels.max() <= 9
        bright = scene.image.mean(2)
        for mask, (left, top, right, bottom) in zip(scene.masks, scene.boxes, strict=True):
            assert mask.sum() > 40
            assert mask[top:bottom, left:right].sum() == mask.sum()
            assert mask[top, left:right].any()
            assert mask[bottom - 1, left:right].any()
            assert mask[top:bottom, left].any()
            assert mask[top:bottom, right - 1].any()
            around = np.ones((bottom - top, right - left), dtype=bool) & ~scene.masks.any(0)[top:bottom, left:right]
            if around.any():
                assert bright[mask].mean() > bright[top:bottom, left:right][around].mean()
    assert min(counts) >= 3
    assert max(counts) <= DIGITS_IN_A_SCENE[1]


def test_class_maps_count_from_the_canvas() -> None:
    scene = DigitScenes("train", 1)[0]
    values = class_map(scene)
    assert set(np.unique(values)) == {1, *(scene.labels + 2)}
    assert np.array_equal(values == 1, ~scene.masks.any(0))


def test_run_lengths_are_those_of_pycocotools() -> None:
    mask_tools = pytest.importorskip("pycocotools.mask")
    generator = np.random.default_rng(0)
    masks = [generator.random((7, 5)) < 0.5, np.ones((3, 4), bool), np.zeros((3, 4), bool), np.eye(4, dtype=bool)]
    for mask in masks:
        encoded = mask_tools.frPyObjects({"size": list(mask.shape), "counts": run_lengths(mask)}, *mask.shape)
        assert np.array_equal(mask_tools.decode(encoded).astype(bool), mask)


def test_files_hold_the_scenes(tmp_path: Path) -> None:
    training, validation = DigitScenes("train", 2, (64, 48)), DigitScenes("held_out", 1, (64, 48))
    write_ade20k(tmp_path / "ade", training, validation)
    maps = sorted((tmp_path / "ade/annotations/training").glob("*.png"))
    assert [file.stem for file in maps] == [file.stem for file in sorted((tmp_path / "ade/images/training").glob("*"))]
    assert np.array_equal(np.asarray(Image.open(maps[1])), class_map(training[1]))
    write_coco(tmp_path / "coco", training, validation, training.class_names)
    content = json.loads((tmp_path / "coco/annotations/instances_train2017.json").read_text())
    assert content["categories"][0] == {"id": 1, "name": "zero"}
    assert len(content["annotations"]) == sum(len(scene.labels) for scene in training)
    for image in content["images"]:
        stored = np.asarray(Image.open(tmp_path / "coco/train2017" / image["file_name"]), dtype=float)
        assert np.abs(stored - training[image["id"]].image).mean() < 8
    with pytest.raises(InputError, match="is there already"):
        write_ade20k(tmp_path / "ade", training, validation)


def test_half_written_folders_do_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = DigitScenes("train", 2, (64, 48))
    monkeypatch.setattr("vrwkv.data.scene_files.class_map", lambda scene: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_ade20k(tmp_path / "ade", training, training)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("tain", 1), "unknown split"), (("train", 0), "at least one scene"), (("train", 1, (31, 64)), "at least 32")],
)
def test_mistakes(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DigitScenes(*arguments)
