import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from vrwkv.data import CorruptSample, DigitsSource, FolderSource
from vrwkv.data.split import split_indices
from vrwkv.data.strings import PackedStrings
from vrwkv.errors import InputError


def draw(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    draw(tmp_path / "dog" / "b.png", (0, 0, 1))
    draw(tmp_path / "dog" / "a.PNG", (0, 0, 2))
    draw(tmp_path / "cat" / "deep" / "c.jpg", (0, 0, 3))
    draw(tmp_path / ".hidden" / "x.png", (0, 0, 4))
    draw(tmp_path / "dog" / "._b.png", (0, 0, 5))
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    return tmp_path


def test_folder_is_sorted_and_labelled(animals: Path) -> None:
    source = pickle.loads(pickle.dumps(FolderSource(animals)))
    assert source.class_names == ["cat", "dog"]
    assert [(source[i]["name"], source[i]["label"]) for i in range(len(source))] == [
        ("cat/deep/c.jpg", 0),
        ("dog/a.PNG", 1),
        ("dog/b.png", 1),
    ]
    assert list(source.labels) == [0, 1, 1]
    assert source[1]["image"].getpixel((0, 0)) == (0, 0, 2)


def test_folder_names_a_damaged_file(animals: Path) -> None:
    (animals / "dog" / "b.png").write_bytes(b"nothing")
    with pytest.raises(CorruptSample, match=r"dog/b\.png"):
        FolderSource(animals)[2]


def test_folder_mistakes(animals: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dgo does not exist; did you mean .*dog"):
        FolderSource(animals / "dgo")
    with pytest.raises(InputError, match="is a file"):
        FolderSource(animals / "dog" / "b.png")
    with pytest.raises(InputError, match="no sub-folder"):
        FolderSource(animals / "dog")
    (animals / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no image"):
        FolderSource(animals)


def test_folder_split_is_a_partition(tmp_path: Path) -> None:
    for i in range(10):
        draw(tmp_path / "one" / f"{i}.png", (i, 0, 0))
    draw(tmp_path / "two" / "only.png", (0, 0, 0))
    names = {s: [FolderSource(tmp_path, s)[i]["name"] for i in range(len(FolderSource(tmp_path, s)))]
             for s in ("all", "train", "held_out")}  # fmt: skip
    assert len(names["held_out"]) == 2
    assert sorted(names["train"] + names["held_out"]) == names["all"]
    assert FolderSource(tmp_path, "held_out").class_names == ["one", "two"]


def test_split_of_a_class_ignores_the_others() -> None:
    alone = split_indices([0] * 50, "held_out")
    together = split_indices([0] * 50 + [1] * 30, "held_out")
    assert len(alone) == 10
    assert together[together < 50].tolist() == alone.tolist()
    with pytest.raises(InputError, match="did you mean 'held_out'"):
        split_indices([0], "heldout")


def test_digits() -> None:
    everything, train, held_out = (DigitsSource(split) for split in ("all", "train", "held_out"))
    assert len(everything) == 1797
    assert len(train) + len(held_out) == 1797
    counts = np.bincount(everything.labels)
    assert np.bincount(held_out.labels).tolist() == np.round(counts / 5).astype(int).tolist()
    assert not {train[i]["name"] for i in range(len(train))} & {held_out[i]["name"] for i in range(len(held_out))}
    sample = everything[3]
    assert everything.class_names[sample["label"]] == "three"
    assert (sample["image"].mode, sample["image"].size) == ("RGB", (8, 8))
    levels = np.round(np.asarray(sample["image"])[..., 0] * (16 / 255))
    assert np.array_equal(levels, load_digits().images[3])
    assert max(np.asarray(everything[i]["image"]).max() for i in range(20)) == 255
    with pytest.raises(InputError, match="unknown split"):
        DigitsSource("test")


def test_packed_strings() -> None:
    strings = ["", "a", "ä€😀", "x" * 1000, "broken \udcff name"]
    packed = pickle.loads(pickle.dumps(PackedStrings(strings)))
    assert list(packed) == strings
    assert packed[-1] == strings[-1]
    assert packed[1:3] == strings[1:3]
    with pytest.raises(IndexError):
        packed[5]
    assert list(PackedStrings([])) == []
