"""Labelled images of every kind, on small files in the format of the real ones."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vrwkv.data import CorruptSample, LabelledDataConfig, build_labelled_source
from vrwkv.errors import InputError


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 10, 20)).save(stream, "png")
    return stream.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def source(**options: object):  # type: ignore[no-untyped-def]
    return build_labelled_source(LabelledDataConfig(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["cls", "json", "own"])
def test_shards_with_labels(tmp_path: Path, field: str) -> None:
    def label(value: int) -> bytes:
        record = {"label": value, "species": value + 1}
        return str(value).encode() if field == "cls" else json.dumps(record).encode()

    members = {}
    for index in range(20):
        members[f"{index:02d}.png"] = png(index)
        members[f"{index:02d}.{'cls' if field == 'cls' else 'json'}"] = label(index % 2)
    (tmp_path / "names.txt").write_text("none\ncat\ndog\n" if field == "own" else "cat\ndog\n")
    path = shard(tmp_path / "train-0.tar", members)
    options = {"kind": "shards", "path": path, "label_column": "species" if field == "own" else ""}
    plain = source(**options)
    first = 1 if field == "own" else 0
    assert [plain[index]["label"] for index in range(4)] == [first, first + 1, first, first + 1]
    assert plain[5]["image"].getpixel((0, 0)) == (5, 10, 20)
    assert plain.class_names == [str(index) for index in range(first + 2)]
    named = source(**options, class_names=str(tmp_path / "names.txt"), split="held_out")
    assert named.class_names[-2:] == ["cat", "dog"]
    assert sorted(named.labels.tolist()) == [first] * 2 + [first + 1] * 2
    assert [named[index]["label"] for index in range(4)] == named.labels.tolist()


def test_a_label_beyond_the_known_classes_is_corrupt(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {"a.png": png(1), "a.cls": b"0", "b.png": png(2), "b.cls": b"7"})
    known = build_labelled_source(LabelledDataConfig(kind="shards", path=path), num_classes=3)
    assert known.class_names == ["0", "1", "2"]
    with pytest.raises(CorruptSample, match="label 7 is not one of the 3 classes"):
        known[1]


@pytest.mark.parametrize(
    ("members", "options", "said"),
    [
        ({"a.png": b"", "a.txt": b"cat"}, {}, "hold no labels"),
        ({"a.txt": b"x", "a.cls": b"1"}, {}, "hold no images"),
        ({"a.png": b"", "a.json": b'{"lable": 1}'}, {}, "did you mean 'lable'"),
        ({"a.png": b"", "a.json": b'{"label": "cat"}'}, {}, "no class number"),
        ({"a.png": b"", "a.json": b'{"label": 1.5}'}, {}, "no class number"),
        ({"a.png": b"", "a.cls": b"1"}, {"label_column": "species"}, r"\.json"),
    ],
)
def test_shards_without_usable_labels(
    tmp_path: Path, members: dict[str, bytes], options: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        source(kind="shards", path=shard(tmp_path / "a.tar", members), **options)


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def test_torchvision_reads_mnist_files(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = np.arange(30 * 28 * 28).reshape(30, 28, 28) % 251, np.arange(30) % 10
    for part, count in (("train", 30), ("t10k", 10)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images[:count]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels[:count]))
    train = source(kind="torchvision", name="MNIST", path=str(tmp_path))
    test = source(kind="torchvision", name="MNIST", path=str(tmp_path), part="test")
    assert (len(train), len(test)) == (30, 10)
    assert train.labels.tolist() == labels.tolist()
    assert train.class_names[3] == "3 - three"
    sample = train[12]
    assert (sample["image"].mode, sample["image"].size, sample["label"]) == ("RGB", (28, 28), 2)
    assert np.array_equal(np.asarray(sample["image"])[..., 1], images[12])
    with pytest.raises(InputError, match="'train' and 'test'"):
        source(kind="torchvision", name="MNIST", path=str(tmp_path), part="val")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "CIFAR11"}, "did you mean 'CIFAR10'"),
        ({"name": "CIFAR10"}, "cannot be opened"),
        ({"name": "CocoDetection"}, "cannot be opened"),
        ({}, "needs a name"),
        ({"name": "MNIST", "class_names": "x.txt"}, "class_names belongs to kind=shards"),
    ],
)
def test_torchvision_mistakes(tmp_path: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        source(kind="torchvision", path=str(tmp_path), **options)


def test_torchvision_set_without_files() -> None:
    fake = source(kind="torchvision", name="FakeData")
    assert fake[0]["image"].mode == "RGB"
    assert 0 <= fake[0]["label"] < 10


def test_hugging_face_set_on_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"img": [{"bytes": png(index), "path": None} for index in range(10)], "label": [0, 1] * 5}
    rows["img"][3] = {"bytes": b"damaged", "path": None}
    whole = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": whole, "test": whole.select(range(4, 8))}).save_to_disk(str(tmp_path / "pets"))
    train = source(kind="huggingface", path=str(tmp_path / "pets"), part="train")
    assert train.class_names == ["cat", "dog"]
    assert train.labels.tolist() == [0, 1] * 5
    assert train[5]["label"] == 1
    assert train[5]["image"].getpixel((0, 0)) == (5, 10, 20)
    with pytest.raises(CorruptSample, match="row 3"):
        train[3]
    test = source(kind="huggingface", path=str(tmp_path / "pets"), part="test", split="train")
    assert len(test) == 4
    for options, said in (
        ({"part": "val"}, "has the parts train, test"),
        ({}, "has the parts train, test"),
        ({"part": "train", "label_column": "lable"}, "did you mean 'label'"),
        ({"part": "train", "image_column": "label"}, "holds no images"),
    ):
        with pytest.raises(InputError, match=said):
            source(kind="huggingface", path=str(tmp_path / "pets"), **options)


def test_hugging_face_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pip install datasets|no saved data set"):
        source(kind="huggingface", path=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "folder"}, "kind=folder needs a path"),
        ({"kind": "digits", "path": "x"}, "path belongs to kind="),
        ({"kind": "folder", "path": "x", "part": "train"}, "part belongs to kind="),
        ({"kind": "shards", "path": "x.tar", "download": True}, "download belongs to kind=torchvision"),
    ],
)
def test_options_of_another_kind_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        source(**options)
