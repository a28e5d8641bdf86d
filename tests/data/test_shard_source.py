import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from vrwkv.data import CorruptSample, ShardSource
from vrwkv.data import shard_index as shard_index_module
from vrwkv.errors import InputError


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


@pytest.fixture
def two_shards(tmp_path: Path) -> Path:
    for shard in range(2):
        members = [("__meta__", b"x"), ("._0.png", b"x"), ("README", b"x")]
        for i in range(3):
            members += [(f"dir.v1/{i}.PNG", png(10 * shard + i)), (f"dir.v1/{i}.cls", str(i).encode())]
        write_shard(tmp_path / f"train-{shard:04d}.tar", members)
    return tmp_path


def test_reads_every_sample_in_any_order(two_shards: Path) -> None:
    source = ShardSource(str(two_shards / "train-{0000..0001}.tar"))
    assert len(source) == 6
    for i in (5, 0, 3, 2):
        sample = source[i]
        assert sample["image"].getpixel((0, 0))[0] == 10 * (i // 3) + i % 3
        assert sample["label"] == i % 3
        assert sample["name"] == f"train-000{i // 3}.tar key dir.v1/{i % 3}"
    assert len({source.key(i) for i in range(6)}) == 6
    with pytest.raises(IndexError):
        source[6]


def test_survives_pickling(two_shards: Path) -> None:
    source = pickle.loads(pickle.dumps(ShardSource(two_shards / "*.tar")))
    assert source[4]["image"].getpixel((0, 0))[0] == 11


def test_extension_begins_at_the_first_dot_and_members_need_not_be_neighbours(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", [("1.seg.png", b"s"), ("2.png", png(2)), ("1.png", png(1)), ("2.txt", b"")])
    source = ShardSource(shard)
    assert [source.extensions(i) for i in range(2)] == [["seg.png", "png"], ["png", "txt"]]
    assert source[0]["image"].getpixel((0, 0))[0] == 1
    assert source.read(1, "txt") == b""


def test_patterns(two_shards: Path) -> None:
    first, second = (str(two_shards / f"train-000{i}.tar") for i in range(2))
    for pattern in (f"{second}::{first}", [second, first]):
        assert [str(shard) for shard in ShardSource(pattern).shards] == [second, first]
    assert [str(shard) for shard in ShardSource(str(two_shards / "train-*.tar")).shards] == [first, second]
    bracketed = write_shard(two_shards / "odd[1]{2}.tar", [("1.png", png(1))])
    assert ShardSource(bracketed).shards == [bracketed]


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []
    original = shard_index_module.scan

    def counted(shard: Path) -> shard_index_module.ShardTable:
        seen.append(shard)
        return original(shard)

    monkeypatch.setattr(shard_index_module, "scan", counted)
    return seen


def test_the_index_is_kept_until_the_shard_changes(tmp_path: Path, scans: list[Path]) -> None:
    shard = write_shard(tmp_path / "a.tar", [("1.png", png(1))])
    ShardSource(shard)
    assert ShardSource(shard)[0]["image"].getpixel((0, 0))[0] == 1
    assert len(scans) == 1
    write_shard(shard, [("5.png", png(5)), ("6.png", png(6))])
    os.utime(shard, (1, 1))
    source = ShardSource(shard)
    assert len(scans) == 2
    assert source[1]["image"].getpixel((0, 0))[0] == 6
    assert ShardSource(shard)[1]["image"].getpixel((0, 0))[0] == 6


def test_a_damaged_index_is_made_again(tmp_path: Path, scans: list[Path]) -> None:
    shard = write_shard(tmp_path / "a.tar", [("1.png", png(1))])
    ShardSource(shard)
    (cache,) = (tmp_path / ".vrwkv_index").iterdir()
    for damage in (b"", b"PK\x03\x04 broken", cache.read_bytes()[:100]):
        cache.write_bytes(damage)
        assert ShardSource(shard)[0]["image"].getpixel((0, 0))[0] == 1
    assert len(scans) == 4


def test_a_common_cache_and_a_folder_that_cannot_be_written(tmp_path: Path, scans: list[Path]) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "a.tar", [("1.png", png(ord(name)))])
    for _ in range(2):
        for name in ("x", "y"):
            source = ShardSource(tmp_path / name / "a.tar", cache_folder=tmp_path / "cache")
            assert source[0]["image"].getpixel((0, 0))[0] == ord(name)
    assert len(scans) == 2
    blocked = tmp_path / "x" / ".vrwkv_index"
    blocked.write_text("a file where the folder would be")
    assert len(ShardSource(tmp_path / "x" / "a.tar")) == 1


def test_a_shard_that_shrank_is_corrupt(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", [("1.png", png(1))])
    source = ShardSource(shard)
    shard.write_bytes(shard.read_bytes()[:520])
    with pytest.raises(CorruptSample, match=r"a\.tar key 1: the shard has become shorter"):
        source[0]
    shard.unlink()
    with pytest.raises(CorruptSample, match="cannot be read"):
        source[0]


def test_unusable_samples_are_corrupt(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", [("1.txt", b"x"), ("2.png", b"no"), ("3.png", png(1)), ("3.cls", b"cat")])
    source = ShardSource(shard)
    for index, reason in enumerate(("no image", "not an image", "no integer")):
        with pytest.raises(CorruptSample, match=reason):
            source[index]


def test_shard_mistakes(two_shards: Path) -> None:
    good = two_shards / "train-0000.tar"
    truncated = two_shards / "cut.tar"
    truncated.write_bytes(good.read_bytes()[:1700])
    compressed = two_shards / "a.tar.gz"
    with tarfile.open(compressed, "w:gz") as archive:
        archive.add(good, "x.png")
    text = two_shards / "text.tar"
    text.write_text("hello " * 200)
    no_samples = write_shard(two_shards / "none.tar", [("README", b"x")])
    twice = write_shard(two_shards / "twice.tar", [("1.png", png(1)), ("1.PNG", png(2))])
    cases = [
        (truncated, "middle of a member"),
        (compressed, "compressed"),
        (text, "no tar archive"),
        (no_samples, "no samples"),
        (twice, r"two members 1\.png"),
        (two_shards / "trian-0000.tar", "did you mean .*train-0000.tar"),
        (two_shards / "train-{0000..0002}.tar", "no shard matches"),
        (two_shards / "train-{0000..0002.tar", "unbalanced braces"),
        (two_shards / "nowhere" / "a.tar", "nowhere does not exist"),
        ("https://example.org/a.tar", "local files"),
        ("", "empty"),
        ([], "pattern"),
    ]
    for pattern, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            ShardSource(pattern)
        assert "\n" not in str(caught.value)
