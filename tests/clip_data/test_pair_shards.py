import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rwkv_clip.data.shards import PairShardSource
from vrwkv.data import CorruptSample
from vrwkv.errors import InputError


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(folder: Path, *samples: dict[str, Any]) -> Path:
    path = folder / "a.tar"
    with tarfile.open(path, "w") as archive:
        for key, members in enumerate(samples):
            for extension, content in members.items():
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                header = tarfile.TarInfo(f"{key}.{extension}")
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))
    return path


def test_captions_from_text_and_json(tmp_path: Path) -> None:
    source = PairShardSource(
        shard(
            tmp_path,
            {"png": png(1), "txt": " ein Hund été \n".encode(), "json": {"caption": "other"}},
            {"json": {"caption": ["one", " ", "two"]}, "png": png(2)},
            {"png": png(3), "json": {"title": "three"}},
        )
    )
    samples = [source[i] for i in range(3)]
    assert [sample["captions"] for sample in samples] == [["ein Hund été"], ["one", "two"], ["three"]]
    assert [sample["image"].getpixel((0, 0))[0] for sample in samples] == [1, 2, 3]
    assert samples[1]["name"] == "a.tar key 1"
    assert len({source.image_key(i) for i in range(3)}) == 3


def test_a_chosen_field_wins_over_text(tmp_path: Path) -> None:
    source = PairShardSource(shard(tmp_path, {"png": png(), "txt": b"raw", "json": {"better": ["x", "y"]}}), "better")
    assert source[0]["captions"] == ["x", "y"]


def test_unusable_samples_are_corrupt(tmp_path: Path) -> None:
    cases = [
        ({"png": png(), "txt": b"  \n"}, "empty caption"),
        ({"png": png(), "txt": b"\xff\xfe"}, "not UTF-8"),
        ({"png": png(), "json": {"caption": []}}, "empty caption"),
        ({"png": png(), "json": {"caption": 3}}, "neither text nor a list"),
        ({"png": png(), "json": {"captoin": "x"}}, "no field 'caption'; did you mean 'captoin'"),
        ({"png": png(), "json": b"{"}, "cannot be parsed"),
        ({"png": png(), "json": [1]}, "not an object"),
        ({"png": png()}, r"no \.json"),
        ({"txt": b"x"}, "no image"),
        ({"jpg": png()[:40], "txt": b"x"}, r"key 9 \(\.jpg\)"),
    ]
    source = PairShardSource(shard(tmp_path, *(members for members, _ in cases)))
    for index, (_, reason) in enumerate(cases):
        with pytest.raises(CorruptSample, match=reason):
            source[index]


def test_mistakes_about_the_whole_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no images.*only \.txt"):
        PairShardSource(shard(tmp_path, {"txt": b"x"}))
    with pytest.raises(InputError, match=r"no captions \(\.txt or \.json\), only \.png"):
        PairShardSource(shard(tmp_path, {"png": png()}))
    with pytest.raises(InputError, match=r"no captions \(\.json\)"):
        PairShardSource(shard(tmp_path, {"png": png(), "txt": b"x"}), "caption")
    with pytest.raises(InputError, match=r"no \.json member has the field 'captoin'; did you mean 'caption'"):
        PairShardSource(shard(tmp_path, {"png": png(), "json": {"caption": "x"}}), "captoin")
    with pytest.raises(InputError, match="no shard matches"):
        PairShardSource(tmp_path / "b*.tar")
