"""Image-text pairs in webdataset shards, as img2dataset writes them."""

import difflib
import json
import os
from collections.abc import Sequence
from typing import Any

from vrwkv.data.shards import SHARD_IMAGE_EXTENSIONS, ShardSource
from vrwkv.data.source import CorruptSample
from vrwkv.errors import InputError

_USUAL_FIELDS = ("caption", "title", "text")
_PROBED_SAMPLES = 16


class PairShardSource:
    """One sample for each key: its image member and the captions in its .txt or .json member.

    A .txt member is one caption. A field of .json may hold one caption or a list of them.

    Args:
        pattern: as for `vrwkv.data.shards.ShardSource`.
        caption_field: field of .json to take captions from. By default they come from .txt or, without one, from
            the first of the fields "caption", "title" and "text".
        cache_folder: as for `ShardSource`.

    Raises:
        InputError: nothing matches, damaged archives, no images, no captions, or no sample with such a field.
    """

    def __init__(
        self,
        pattern: str | os.PathLike[str] | Sequence[str],
        caption_field: str | None = None,
        cache_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self._shards = ShardSource(pattern, cache_folder)
        self._field = caption_field
        present = self._shards.all_extensions()
        found = ", ".join(f".{extension}" for extension in sorted(present))
        if present.isdisjoint(SHARD_IMAGE_EXTENSIONS):
            raise InputError(f"the shards {pattern} hold no images ({', '.join(SHARD_IMAGE_EXTENSIONS)}), only {found}")
        texts = {"json"} if caption_field else {"txt", "json"}
        if present.isdisjoint(texts):
            wanted = " or ".join(f".{extension}" for extension in sorted(texts, reverse=True))
            raise InputError(f"the shards {pattern} hold no captions ({wanted}), only {found}")
        if caption_field:
            self._check_field(caption_field)

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A dict with "image", "captions" and "name"."""
        captions = self.captions(index)
        return {"image": self._shards.image(index), "captions": captions, "name": self._shards.name(index)}

    def image_key(self, index: int) -> str:
        """Shard and key."""
        return self._shards.key(index)

    def captions(self, index: int) -> list[str]:
        """The captions that are not empty. Raises CorruptSample if there is none."""
        if self._field is None and "txt" in self._shards.extensions(index):
            try:
                texts: Any = self._shards.read(index, "txt").decode("utf-8")
            except UnicodeDecodeError:
                raise CorruptSample(self._shards.name(index), "the caption in .txt is not UTF-8 text") from None
        else:
            texts = self._from_json(index)
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise CorruptSample(self._shards.name(index), "the caption is neither text nor a list of texts")
        captions = [text.strip() for text in texts if text.strip()]
        if not captions:
            raise CorruptSample(self._shards.name(index), "empty caption")
        return captions

    def _from_json(self, index: int) -> Any:
        record = self._record(index)
        for field in (self._field,) if self._field else _USUAL_FIELDS:
            if field in record:
                return record[field]
        wanted = self._field or _USUAL_FIELDS[0]
        raise CorruptSample(self._shards.name(index), f".json has no field {wanted!r}{_nearest(wanted, record)}")

    def _record(self, index: int) -> dict[str, Any]:
        try:
            record = json.loads(self._shards.read(index, "json"))
        except ValueError:
            raise CorruptSample(self._shards.name(index), ".json cannot be parsed") from None
        if not isinstance(record, dict):
            raise CorruptSample(self._shards.name(index), ".json is not an object with fields")
        return record

    def _check_field(self, field: str) -> None:
        """A misspelt field would make every sample corrupt: say so at the start."""
        seen: dict[str, Any] = {}
        for index in range(min(len(self), _PROBED_SAMPLES)):
            try:
                record = self._record(index)
            except CorruptSample:
                continue
            if field in record:
                return
            seen.update(record)
        if seen:
            raise InputError(f"no .json member has the field {field!r}{_nearest(field, seen)}")


def _nearest(field: str, record: dict[str, Any]) -> str:
    near = difflib.get_close_matches(field, record, n=1)
    return f"; did you mean {near[0]!r}?" if near else f", only {', '.join(map(repr, record)) or 'none'}"
