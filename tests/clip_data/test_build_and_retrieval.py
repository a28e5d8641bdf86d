from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rwkv_clip.data import pairs
from rwkv_clip.data.build import build_source
from rwkv_clip.data.config import AugmentationConfig, DataConfig, SourceConfig
from rwkv_clip.data.evaluation import retrieval_from_labels, retrieval_from_pairs
from rwkv_clip.data.pairs import PairSource
from rwkv_clip.data.templates import DIGITS_TRAINING, named_templates
from vrwkv.data import DigitsSource
from vrwkv.errors import InputError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("cat/a", "cat/b", "dog/c"):
        file = tmp_path / "images" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)
    rows = ["cat/a.png|one", "./cat/a.png|two", "cat/b.png|one", "dog/c.png|three", "cat/a.png|one"]
    (tmp_path / "images" / "pairs.csv").write_text("\n".join(["file|words", *rows]))
    return tmp_path / "images"


def test_every_kind(data: Path) -> None:
    table = build_source(
        SourceConfig(
            kind="csv", path=str(data / "pairs.csv"), image_column="file", caption_column="words", separator="|"
        )
    )
    assert len(table) == 5
    folder = build_source(SourceConfig(kind="folder", path=str(data)))
    assert folder.class_names == ["cat", "dog"]
    assert folder.captions(0) == [text.format("cat") for text in named_templates("simple")]
    digits = build_source(SourceConfig(kind="digits", split="held_out", templates=("digits", "my {}")))
    assert len(digits) == len(DigitsSource("held_out"))
    assert len(digits.captions(0)) == len(DIGITS_TRAINING) + 1
    assert SourceConfig(templates="imagenet").templates == ("imagenet",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cvs"}, "did you mean 'csv'"),
        ({"kind": "csv"}, "needs a path"),
        ({"kind": "digits", "path": "x.csv"}, "kind=digits reads no files"),
        ({"kind": "csv", "path": "x.csv", "split": "train"}, "needs class labels"),
        ({"kind": "shards", "path": "x.tar", "templates": ("simple",)}, "captions of its own"),
        ({"kind": "digits", "templates": ("digit",)}, "did you mean 'digits'"),
        ({"kind": "digits", "split": "heldout"}, "did you mean 'held_out'"),
        ({"kind": "csv", "path": "x.csv"}, "does not exist"),
    ],
)
def test_mistakes_in_a_source(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_source(SourceConfig(**options))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataConfig(batch_size=0), "batch_size"),
        (lambda: DataConfig(num_workers=-1), "num_workers"),
        (lambda: DataConfig(max_corrupt_fraction=2), "max_corrupt_fraction"),
        (lambda: AugmentationConfig(scale=(1.0, 0.5)), "scale"),
        (lambda: AugmentationConfig(scale=(0.5, 2.0)), "scale.*at most 1"),
        (lambda: AugmentationConfig(ratio=(0.0, 1.0)), "ratio"),
        (lambda: AugmentationConfig(horizontal_flip=1.5), "horizontal_flip"),
        (lambda: AugmentationConfig(color_jitter=-1), "color_jitter"),
    ],
)
def test_mistakes_in_a_config(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_the_command_line_shows_and_parses_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    import tyro

    with pytest.raises(SystemExit):
        tyro.cli(DataConfig, args=["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Share of unreadable samples" in text
    assert "one sub-folder of images" in text
    arguments = ["--train.kind", "digits", "--train.templates", "a {}", "simple", "--augmentation.ratio", "0.8", "1.25"]
    config = tyro.cli(DataConfig, args=arguments)
    assert config.train.templates == ("a {}", "simple")
    assert config.augmentation.ratio == (0.8, 1.25)


def test_retrieval_groups_equal_images_and_equal_captions(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = PairSource(data / "pairs.csv", "file", "words", "|")
    monkeypatch.setattr("rwkv_clip.data.pairs.open_image", None)  # grouping decodes nothing
    retrieval = retrieval_from_pairs(source)
    assert retrieval.images == [0, 2, 3]
    assert retrieval.captions == ["one", "two", "three"]
    assert retrieval.relevant == [(0, 0), (0, 1), (1, 0), (2, 2)]
    assert retrieval.skipped.count == 0


def test_retrieval_leaves_out_rows_without_caption(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "CHECKED_ROWS", 0)
    (data / "holes.csv").write_text("filepath,title\ncat/a.png,\ncat/b.png,x\n")
    retrieval = retrieval_from_pairs(PairSource(data / "holes.csv"))
    assert (retrieval.images, retrieval.captions, retrieval.relevant) == ([1], ["x"], [(0, 0)])
    assert retrieval.skipped.examples == [("holes.csv line 2 (cat/a.png)", "empty caption")]


def test_retrieval_of_labels(data: Path) -> None:
    source = build_source(SourceConfig(kind="folder", path=str(data)))
    retrieval = retrieval_from_labels(source, ["a {}", "{}s"])
    assert retrieval.images == [0, 1, 2]
    assert retrieval.captions == ["a cat", "cats", "a dog", "dogs"]
    assert retrieval.relevant == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3)]
