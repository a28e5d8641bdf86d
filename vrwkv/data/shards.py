"""Tar shards in webdataset's format, read at random through an index of their headers."""

import difflib
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vrwkv.data.shard_index import ShardIndex, load_or_scan
from vrwkv.data.source import CorruptSample, open_image
from vrwkv.errors import InputError

SHARD_IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


class ShardSource:
    """The samples of local tar files whose members share a key: 0001.jpg, 0001.txt, 0001.json, …

    As in webdataset, the key is the path up to the first dot of the file name, the extension is the rest in lower
    case, and members named __…__ are passed over. Only headers are read at the start; a sample's members are read
    where they lie in the file, so any order costs the same. The index is kept for the next start in a folder
    .vrwkv_index beside the shards where that can be written, and used as long as size and modification time
    of the shard are the same.

    Args:
        pattern: path, glob pattern or brace pattern ("train-{0000..0127}.tar"); several are joined by "::" or
            given as a sequence.
        cache_folder: where to keep the indexes instead.

    Raises:
        InputError: nothing matches, or a file that is no plain, complete tar archive.
    """

    def __init__(
        self, pattern: str | os.PathLike[str] | Sequence[str], cache_folder: str | os.PathLike[str] | None = None
    ) -> None:
        from tqdm import tqdm

        self.shards = expand_pattern(pattern)
        folder = None if cache_folder is None else Path(cache_folder)
        progress = tqdm(self.shards, desc="indexing shards", unit="shard", disable=None, leave=False)
        self._index = ShardIndex([load_or_scan(shard, folder) for shard in progress])
        if not len(self._index):
            raise InputError(f"the shards {pattern} hold no samples: members must be named KEY.EXTENSION")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A dict with "image", "name" and, where there is a member KEY.cls, "label"."""
        sample: dict[str, Any] = {"image": self.image(index), "name": self.name(index)}
        if "cls" in self.extensions(index):
            text = self.read(index, "cls").decode("utf-8", "replace").strip()
            try:
                sample["label"] = int(text)
            except ValueError:
                raise CorruptSample(self.name(index), f"the label in .cls is no integer: {text[:40]!r}") from None
        return sample

    def name(self, index: int) -> str:
        """Where the sample lies, e.g. "train-0003.tar key 00012"."""
        shard, _ = self._index.locate(index)
        return f"{self.shards[shard].name} key {self._index.key(index)}"

    def key(self, index: int) -> str:
        """Shard and key of the sample; unique in the set unless a shard is listed twice."""
        shard, _ = self._index.locate(index)
        return f"{self.shards[shard]}::{self._index.key(index)}"

    def extensions(self, index: int) -> list[str]:
        """Extensions of the sample's members, in the order of the archive."""
        return list(self._index.members(index))

    def all_extensions(self) -> set[str]:
        """Every extension that occurs in the set."""
        return self._index.extensions()

    def read(self, index: int, extension: str) -> bytes:
        """The bytes of one member. Raises CorruptSample if the sample has no such member or the file has shrunk."""
        members = self._index.members(index)
        if extension not in members:
            raise CorruptSample(self.name(index), f"no .{extension} among its members ({', '.join(members)})")
        offset, size = members[extension]
        shard, _ = self._index.locate(index)
        try:
            # Opened per read: a file object kept open would share its position among forked workers.
            with self.shards[shard].open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise CorruptSample(self.name(index), f"cannot be read ({error.strerror})") from None
        if len(data) < size:
            raise CorruptSample(self.name(index), "the shard has become shorter since it was indexed")
        return data

    def image(self, index: int) -> Any:
        """The sample's image, decoded to RGB: its first member with one of `SHARD_IMAGE_EXTENSIONS`."""
        for extension in self.extensions(index):
            if extension in SHARD_IMAGE_EXTENSIONS:
                return open_image(self.read(index, extension), f"{self.name(index)} (.{extension})")
        wanted = ", ".join(SHARD_IMAGE_EXTENSIONS)
        raise CorruptSample(
            self.name(index), f"no image among its members ({', '.join(self.extensions(index))}; {wanted})"
        )


def expand_pattern(pattern: str | os.PathLike[str] | Sequence[str]) -> list[Path]:
    """The shard files a pattern stands for: braces expanded in their order, glob matches sorted.

    Raises:
        InputError: nothing matches, a file is missing, a URL, or braces without the braceexpand package.
    """
    texts = [os.fspath(pattern)] if isinstance(pattern, str | os.PathLike) else list(pattern)
    shards: list[Path] = []
    for text in "::".join(texts).split("::"):
        if "://" in text or text.startswith("pipe:"):
            raise InputError(f"shards are read from local files, not from {text!r}: download them first")
        for path in _expand_braces(text):
            if os.path.exists(path):  # before globbing: a real path may hold brackets
                shards.append(Path(path))
                continue
            found = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []
            if not found:
                raise InputError(f"no shard matches {path!r}{_nearest_file(Path(path))}")
            shards.extend(Path(match) for match in found)
    if not shards:
        raise InputError("no shards given: expected a path or a pattern such as 'train-{0000..0127}.tar'")
    return shards


def _expand_braces(text: str) -> list[str]:
    if not text.strip():
        raise InputError("the shard pattern is empty: expected a path or a pattern such as 'train-{0000..0127}.tar'")
    if "{" not in text or os.path.exists(text):
        return [text]
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise InputError(f"the braces in {text!r} need a package: pip install braceexpand, or use * instead") from None
    try:
        return list(braceexpand(text))
    except ValueError:
        raise InputError(f"unbalanced braces in the shard pattern {text!r}") from None


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return "" if glob.has_magic(str(path.parent)) else f": folder {path.parent} does not exist"
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
