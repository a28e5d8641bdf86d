"""Where each member of each sample lies in a tar file: a few arrays per shard, found once and kept."""

import contextlib
import os
import re
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from vrwkv.data.strings import PackedStrings
from vrwkv.errors import InputError

_LAYOUT_VERSION = 1
_KEY_AND_EXTENSION = re.compile(r"^((?:.*/)?[^./]+)\.([^/]+)$", re.DOTALL)


@dataclass(frozen=True)
class ShardTable:
    """One shard. Sample i has members starts[i] to starts[i + 1]; member m lies at offsets[m] and is sizes[m] bytes.

    Attributes:
        key_data: uint8, the keys end to end.
        key_bounds: (samples + 1,) int64, where each key begins.
        starts: (samples + 1,) int64.
        extension_ids: (members,) int32, positions in `extensions`.
        offsets: (members,) int64.
        sizes: (members,) int64.
        extensions: (E,) distinct extensions, numpy strings.
    """

    key_data: np.ndarray
    key_bounds: np.ndarray
    starts: np.ndarray
    extension_ids: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    extensions: np.ndarray


class ShardIndex:
    """The tables of several shards, addressed as one list of samples."""

    def __init__(self, tables: list[ShardTable]) -> None:
        self._tables = tables
        self._keys = [PackedStrings.from_arrays(table.key_data, table.key_bounds) for table in tables]
        self._bounds = np.cumsum([0] + [len(table.starts) - 1 for table in tables])

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Shard of the sample and its position therein."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} out of range for {len(self)} samples")
        shard = int(np.searchsorted(self._bounds, index, side="right")) - 1
        return shard, index - int(self._bounds[shard])

    def key(self, index: int) -> str:
        """The sample's key."""
        shard, position = self.locate(index)
        return self._keys[shard][position]

    def members(self, index: int) -> dict[str, tuple[int, int]]:
        """Extension -> (offset, size) in the shard."""
        shard, position = self.locate(index)
        table = self._tables[shard]
        return {
            str(table.extensions[table.extension_ids[m]]): (int(table.offsets[m]), int(table.sizes[m]))
            for m in range(int(table.starts[position]), int(table.starts[position + 1]))
        }

    def extensions(self) -> set[str]:
        """Every extension in the set."""
        return {str(extension) for table in self._tables for extension in table.extensions}


def load_or_scan(shard: Path, cache_folder: Path | None = None) -> ShardTable:
    """The table of a shard, from its cache if size and modification time still agree, else from its headers.

    Raises:
        InputError: the file cannot be read, is no tar archive, is compressed or ends early.
    """
    try:
        status = shard.stat()
    except OSError as error:
        raise InputError(f"shard {shard} cannot be read: {error.strerror}") from None
    stamp = np.array([_LAYOUT_VERSION, status.st_size, status.st_mtime_ns], dtype=np.int64)
    cache = (cache_folder or shard.parent / ".vrwkv_index") / f"{_cache_name(shard, cache_folder)}.npz"
    table = _load(cache, stamp)
    if table is None:
        table = scan(shard)
        # A read-only data folder is normal; the index then lives in memory alone.
        with contextlib.suppress(OSError):
            _save(cache, stamp, table)
    return table


def scan(shard: Path) -> ShardTable:
    """Read the headers of a tar file and group its members by key. Raises InputError as `load_or_scan`."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            end = 0
            for member in archive:
                end = member.offset_data + member.size
                match = _KEY_AND_EXTENSION.match(member.name)
                base = member.name.rpartition("/")[2]
                if not member.isreg() or match is None or (base.startswith("__") and base.endswith("__")):
                    continue
                key, extension = match[1], match[2].lower()
                members = samples.setdefault(key, {})
                if extension in members:
                    raise InputError(
                        f"shard {shard} holds two members {key}.{extension}: keys must be unique in a shard"
                    )
                members[extension] = (member.offset_data, member.size)
                archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header in memory
        if end > shard.stat().st_size:
            raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"shard {shard} cannot be read: {_explain(shard, error)}") from None
    extensions = sorted({extension for members in samples.values() for extension in members})
    ids = {extension: i for i, extension in enumerate(extensions)}
    flat = [(ids[extension], *place) for members in samples.values() for extension, place in members.items()]
    columns = np.array(flat, dtype=np.int64).reshape(-1, 3)
    keys = PackedStrings(samples)
    return ShardTable(
        key_data=keys.data,
        key_bounds=keys.bounds,
        starts=np.cumsum([0] + [len(members) for members in samples.values()], dtype=np.int64),
        extension_ids=columns[:, 0].astype(np.int32),
        offsets=columns[:, 1].copy(),
        sizes=columns[:, 2].copy(),
        extensions=np.array(extensions, dtype=np.str_),
    )


def _explain(shard: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    with shard.open("rb") as file:
        magic = file.read(6)
    if magic[:2] == b"\x1f\x8b" or magic[:3] == b"BZh" or magic == b"\xfd7zXZ\x00" or magic[:4] == b"\x28\xb5\x2f\xfd":
        return "it is compressed, and its members cannot be reached at random; decompress it first"
    if "unexpected end" in str(error):
        return "it ends in the middle of a member; copy or download it again"
    return f"it is no tar archive ({error})"


def _cache_name(shard: Path, cache_folder: Path | None) -> str:
    # In a common cache, shards of different folders may have the same name.
    return shard.name if cache_folder is None else str(shard.resolve()).strip(os.sep).replace(os.sep, "+")


def _load(cache: Path, stamp: np.ndarray) -> ShardTable | None:
    try:
        with np.load(cache, allow_pickle=False) as stored:
            if not np.array_equal(stored["stamp"], stamp):
                return None
            return ShardTable(**{field.name: stored[field.name] for field in fields(ShardTable)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _save(cache: Path, stamp: np.ndarray, table: ShardTable) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=cache.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, stamp=stamp, **{field.name: getattr(table, field.name) for field in fields(ShardTable)})
        os.replace(temporary, cache)
    except BaseException:
        os.unlink(temporary)
        raise
