import pickle
from pathlib import Path

import pytest
from PIL import Image

from rwkv_clip.data import pairs
from rwkv_clip.data.pairs import PairSource
from vrwkv.data import CorruptSample
from vrwkv.errors import InputError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "img").mkdir()
    for i, name in enumerate(("a", "b", "c")):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / "img" / f"{name}.png")
    return tmp_path


def write(folder: Path, text: str, name: str = "pairs.csv", encoding: str = "utf-8") -> Path:
    file = folder / name
    file.write_bytes(text.encode(encoding))
    return file


def test_rows_are_samples(images: Path) -> None:
    rows = [
        "title,extra,filepath",
        '"a cat, sitting",1,img/a.png',
        "",
        '"two',
        'lines",2,img/b.png',
        " été ,3,img/a.png",
    ]
    source = pickle.loads(pickle.dumps(PairSource(write(images, "\r\n".join(rows)))))
    samples = [source[i] for i in range(len(source))]
    assert [sample["captions"] for sample in samples] == [["a cat, sitting"], ["two\r\nlines"], ["été"]]
    assert [sample["name"] for sample in samples] == [
        "pairs.csv line 2 (img/a.png)",
        "pairs.csv line 4 (img/b.png)",
        "pairs.csv line 6 (img/a.png)",
    ]
    assert [sample["image"].getpixel((0, 0))[0] for sample in samples] == [0, 1, 0]
    assert source.image_key(0) == source.image_key(2) != source.image_key(1)


def test_byte_order_mark_and_absolute_paths(images: Path) -> None:
    text = f"filepath,title\n{images}/img/b.png,x\n"
    elsewhere = images / "lists"
    elsewhere.mkdir()
    source = PairSource(write(elsewhere, text, encoding="utf-8-sig"))
    assert source[0]["image"].getpixel((0, 0))[0] == 1


@pytest.mark.parametrize(
    ("name", "separator", "character"),
    [("p.tsv", "", "\t"), ("p.csv", "", ","), ("p.csv", ";", ";"), ("p.csv", "tab", "\t"), ("p.tsv", "comma", ",")],
)
def test_separators_and_columns(images: Path, name: str, separator: str, character: str) -> None:
    text = f"file{character}text\nimg/c.png{character}hello\n"
    source = PairSource(write(images, text, name), "file", "text", separator)
    assert source[0]["captions"] == ["hello"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"pairs\.csv is empty"),
        ("filepath,title\n", "header but no rows"),
        ("filepath,titel\nimg/a.png,x\n", "no column 'title'.*did you mean 'titel'"),
        ("filepath\ttitle\nimg/a.png\tx\n", r"separated by '\\t': set the separator"),
        ("picture,words\nimg/a.png,x\n", "no column 'filepath', only 'picture', 'words'"),
        ("filepath,title\nimg/a.png,x\nimg/b.png,  \nimg/z.png,y\n", r"line 3: empty caption \(2 of 3 rows"),
        (
            "filepath,title\nimg/a.png,x\nimg/z.png,y\n",
            r"line 3: image file .*img/z\.png does not exist \(1 of 2 rows has",
        ),
        ("filepath,title\nimg/a.png,x\nimg/b.png\n", "line 3: empty caption"),
        ("filepath,title\n,x\n", "line 2: no image path"),
        ("filepath,title\nimg,x\n", "line 2: image file .* does not exist"),
    ],
)
def test_mistakes_name_the_place(images: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        PairSource(write(images, text))
    assert "\n" not in str(caught.value)


def test_mistakes_about_the_file(images: Path) -> None:
    write(images, "filepath,title\nimg/a.png,x\n")
    with pytest.raises(InputError, match=r"pair\.csv does not exist; did you mean .*pairs\.csv"):
        PairSource(images / "pair.csv")
    with pytest.raises(InputError, match="is a folder"):
        PairSource(images / "img")
    with pytest.raises(InputError, match="must be one character"):
        PairSource(images / "pairs.csv", separator="::")
    with pytest.raises(InputError, match="not UTF-8"):
        PairSource(write(images, "filepath,title\nimg/a.png,été\n", "latin.csv", "latin-1"))
    with pytest.raises(InputError, match=r"long\.csv line 2: field larger"):
        PairSource(write(images, "filepath,title\nimg/a.png," + "x" * 200_000, "long.csv"))


def test_a_damaged_image_is_a_corrupt_sample(images: Path) -> None:
    (images / "img" / "b.png").write_bytes(b"no image")
    source = PairSource(write(images, "filepath,title\nimg/b.png,x\n"))
    with pytest.raises(CorruptSample, match=r"pairs\.csv line 2 \(img/b\.png\): not an image"):
        source[0]


def test_rows_of_large_sets_are_judged_when_met(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "CHECKED_ROWS", 2)
    source = PairSource(write(images, "filepath,title\nimg/z.png,x\nimg/a.png,\nimg/b.png,y\n,z\n"))
    assert source[2]["captions"] == ["y"]
    for index, reason in ((0, "line 2.*file not found"), (1, "line 3.*empty caption"), (3, "line 5: no image path")):
        with pytest.raises(CorruptSample, match=reason):
            source[index]
