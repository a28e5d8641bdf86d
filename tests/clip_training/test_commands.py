"""The commands as a user types them, on data of the user's own: a CSV of pictures, shards, a folder."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from rwkv_clip.commands import retrieval, train, zero_shot

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (230, 220, 40)}
MODEL = [
    "model.embed_dim=32",
    "model.image.architecture=vrwkv_tiny_patch16_224",
    "model.image.image_size=16",
    "model.image.patch_size=8",
    "model.image.embed_dim=32",
    "model.image.depth=1",
    "model.text.depth=1",
    "model.text.num_heads=1",
    "model.text.context_length=12",
    "data.batch_size=16",
    "train.epochs=12",
    "train.lr=1e-2",
    "train.evaluate_every=0",
]


def picture(colour: str, size: int) -> Image.Image:
    image = Image.new("RGB", (24 + size, 24), COLOURS[colour])
    ImageDraw.Draw(image).rectangle((4, 4, 8 + size % 7, 10), fill="black")
    return image


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 pictures of one colour each: pairs.csv, the same as shards, and a labelled folder."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["filepath,title"]
    with tarfile.open(folder / "pairs.tar", "w") as shard:
        for index in range(64):
            colour = list(COLOURS)[index % 4]
            path = folder / "by_class" / colour / f"{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(colour, index).save(path)
            caption = f"a {colour} picture"
            rows.append(f"by_class/{colour}/{index:02d}.png,{caption}")
            for name, content in ((f"{index:02d}.png", path.read_bytes()), (f"{index:02d}.txt", caption.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    (folder / "pairs.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    train.main([f"run.output={data / 'run'}", f"data.train.path={data / 'pairs.csv'}", *MODEL])
    return data / "run"


def test_trains_on_a_csv_then_classifies_pictures_and_retrieves(
    data: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    red, blue = str(data / "by_class/red/00.png"), str(data / "by_class/blue/02.png")
    zero_shot.main([str(run), "--image", red, blue, "--classes", *COLOURS, "--templates", "a {} picture"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{red}: red ")
    assert lines[1].startswith(f"{blue}: blue ")

    zero_shot.main([str(run), "--folder", str(data / "by_class"), "--templates", "a {} picture"])
    retrieval.main([str(run), "--data", str(data / "pairs.csv")])
    results = json.loads((run / "results.json").read_text())
    assert results["zero_shot_top1"] == 1.0
    # Sixteen pictures share each caption, and any of them counts.
    assert results["i2t_r1"] == results["t2i_r1"] == 1.0
    assert (run / "report" / "retrieval.png").exists()


def test_shards_give_the_same_retrieval_as_the_csv(data: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    retrieval.main([str(run), "--data", str(data / "pairs.tar")])
    out = capsys.readouterr().out
    assert "text to image R@1           100.00 %" in out
    assert "distinct captions                4" in out


def test_trains_on_shards_and_folders(data: Path, tmp_path: Path) -> None:
    train.main(
        [
            f"run.output={tmp_path / 's'}",
            "data.train.kind=shards",
            f"data.train.path={data / 'pairs.tar'}",
            *MODEL,
            "train.epochs=1",
        ]
    )
    train.main(
        [
            f"run.output={tmp_path / 'f'}",
            "data.train.kind=folder",
            f"data.train.path={data / 'by_class'}",
            *MODEL,
            "train.epochs=1",
        ]
    )
    assert (tmp_path / "s" / "model.safetensors").exists()
    assert (tmp_path / "f" / "model.safetensors").exists()


def test_corrupt_pictures_in_a_larger_set_are_skipped_counted_and_reported(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data / "by_class", tmp_path / "by_class")
    (tmp_path / "by_class" / "red" / "00.png").write_bytes(b"no picture")
    shutil.copy(data / "pairs.csv", tmp_path / "pairs.csv")
    pairs = tmp_path / "pairs.csv"
    own = [f"run.output={tmp_path / 'run'}", f"data.train.path={pairs}", "data.max_corrupt_fraction=0.05"]
    evaluation = ["evaluate.retrieval.kind=csv", f"evaluate.retrieval.path={pairs}"]
    train.main([*own, *MODEL, "train.epochs=2", *evaluation])
    out = capsys.readouterr().out
    assert "skipped 1 corrupt sample" in out
    assert "00.png" in out
    skipped = json.loads((tmp_path / "run" / "results.json").read_text())["skipped"]
    assert skipped == {"training samples": 1, "retrieval images": 1}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.train.path=missing.csv"], "missing.csv"),
        (["train.lrr=1"], "train.lr"),
        (["model.image.architecture=vrwkv_tini_patch16_224"], "vrwkv_tiny_patch16_224"),
        (["model.text.mixer=rwkv6bi"], "rwkv6_bi"),
        (["data.train.image_column=filepaths"], "filepath"),
        (["data.batch_size=65"], "64 samples"),
        (["loss=siglip"], "init_bias"),
        (["model.image.embed_dim=48"], "embed_dim"),
        (["evaluate.zero_shot.kind=csv"], "folder or digits"),
        (["run.device=cuda:9"], "cuda"),
    ],
)
def test_mistakes_in_training_are_one_line(
    data: Path, tmp_path: Path, overrides: list[str], said: str, mistake: Callable
) -> None:
    base = [f"run.output={tmp_path / 'run'}", f"data.train.path={data / 'pairs.csv'}", *MODEL]
    assert said in mistake(train.main, [*base, *overrides])
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_small_set_with_a_corrupt_picture_or_an_empty_caption_is_refused(
    data: Path, tmp_path: Path, mistake: Callable
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = (data / "pairs.csv").read_text().replace("by_class", str(data / "by_class"))
    (tmp_path / "corrupt.csv").write_text(f"{rows}\nbad.png,a red picture")
    base = [f"run.output={tmp_path / 'run'}", *MODEL, "data.batch_size=65"]
    assert "bad.png" in mistake(train.main, [*base, f"data.train.path={tmp_path / 'corrupt.csv'}"])
    (tmp_path / "empty.csv").write_text(f"{rows}\n{data / 'by_class/red/00.png'},")
    assert "line 66" in mistake(train.main, [*base, f"data.train.path={tmp_path / 'empty.csv'}"])


def test_mistakes_in_evaluation_are_one_line(data: Path, run: Path, tmp_path: Path, mistake: Callable) -> None:
    red = str(data / "by_class/red/00.png")
    assert "nowhere" in mistake(zero_shot.main, ["nowhere", "--image", red, "--classes", "a", "b"])
    assert "--classes" in mistake(zero_shot.main, [str(run), "--image", red])
    assert "two names" in mistake(zero_shot.main, [str(run), "--image", red, "--classes", "a"])
    assert "--folder" in mistake(zero_shot.main, [str(run)])
    assert "nothing.png" in mistake(zero_shot.main, [str(run), "--image", "nothing.png", "--classes", "a", "b"])
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png" in mistake(
        zero_shot.main, [str(run), "--image", str(tmp_path / "text.png"), "--classes", "a", "b"]
    )
    assert "--data" in mistake(retrieval.main, [str(run)])
    assert "filepath" in mistake(
        retrieval.main, [str(run), "--data", str(data / "pairs.csv"), "--image-column", "filepaths"]
    )


def test_weights_of_another_architecture_are_refused(run: Path, tmp_path: Path, mistake: Callable) -> None:
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"backbone.weight": zeros(3)}, tmp_path / "other.safetensors")
    assert "does not say which model" in mistake(
        retrieval.main, [str(tmp_path / "other.safetensors"), "--data", "x.csv"]
    )
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (broken / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:1000])
    assert "safetensors" in mistake(retrieval.main, [str(broken), "--data", "x.csv"])
