"""Labelled images in webdataset shards: the label stands in a .cls member or in a field of a .json member."""

import difflib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from vrwkv.data.shards import SHARD_IMAGE_EXTENSIONS, ShardSource
from vrwkv.data.source import CorruptSample
from vrwkv.errors import InputError

_USUAL_FIELDS = ("label", "cls", "class")


class LabelledShardSource:
    """One sample for each key: its image member and its label.

    Labels are integers from 0. They are read sample by sample; only `labels`, and `class_names` where no names are
    given, read the label of every sample, once.

    Args:
        pattern: as for `ShardSource`.
        label_field: field of .json that holds the label. By default the label is the text of .cls or, without one, the
            first of the fields "label", "cls" and "class".
        class_names: name of each class; by default the labels' own numbers.
        cache_folder: as for `ShardSource`.

    Raises:
        InputError: nothing matches, damaged archives, no images, no labels, or no sample with such a field.
    """

    def __init__(
        self,
        pattern: str | os.PathLike[str] | Sequence[str],
        label_field: str | None = None,
        class_names: Sequence[str] | None = None,
        cache_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self._shards = ShardSource(pattern, cache_folder)
        self._field = label_field
        self._given_names = None if class_names is None else list(class_names)
        present = self._shards.all_extensions()
        found = ", ".join(f".{extension}" for extension in sorted(present))
        if present.isdisjoint(SHARD_IMAGE_EXTENSIONS):
            raise InputError(f"the shards {pattern} hold no images ({', '.join(SHARD_IMAGE_EXTENSIONS)}), only {found}")
        if present.isdisjoint({"json"} if label_field else {"cls", "json"}):
            wanted = ".json" if label_field else ".cls or .json"
            raise InputError(f"the shards {pattern} hold no labels ({wanted}), only {found}")
        try:
            self.label(0)
        except CorruptSample as error:
            if label_field or "cls" not in present:
                raise InputError(f"the shards {pattern} have no usable labels; the first: {error}") from None

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A dict with "image", "label" and "name"."""
        label = self.label(index)
        if self._given_names is not None and label >= len(self._given_names):
            reason = f"label {label} is not one of the {len(self._given_names)} classes"
            raise CorruptSample(self._shards.name(index), reason)
        return {"image": self._shards.image(index), "label": label, "name": self._shards.name(index)}

    def label(self, index: int) -> int:
        """The label of one sample, at least 0. Raises CorruptSample if there is none."""
        name = self._shards.name(index)
        if self._field is None and "cls" in self._shards.extensions(index):
            value: Any = self._shards.read(index, "cls").decode("utf-8", "replace").strip()
            where = ".cls"
        else:
            value, where = self._from_json(index)
        try:
            label = int(value) if not isinstance(value, bool | float) else -1
        except (TypeError, ValueError):
            label = -1
        if label < 0:
            raise CorruptSample(name, f"the label in {where} is no class number: {str(value)[:40]!r}")
        return label

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64, the label of every sample; a sample without a usable one makes this an InputError."""
        try:
            return np.fromiter((self.label(index) for index in range(len(self))), np.int64, len(self))
        except CorruptSample as error:
            raise InputError(f"the labels of the shards cannot be read: {error}") from None

    @cached_property
    def class_names(self) -> list[str]:
        """The names that were given, or "0", "1", … up to the largest label."""
        if self._given_names is not None:
            return self._given_names
        return [str(label) for label in range(int(self.labels.max()) + 1)]

    def _from_json(self, index: int) -> tuple[Any, str]:
        name = self._shards.name(index)
        try:
            record = json.loads(self._shards.read(index, "json"))
        except ValueError:
            raise CorruptSample(name, ".json cannot be parsed") from None
        if not isinstance(record, dict):
            raise CorruptSample(name, ".json is not an object with fields")
        for field in (self._field,) if self._field else _USUAL_FIELDS:
            if field in record:
                return record[field], f".json field {field!r}"
        wanted = self._field or _USUAL_FIELDS[0]
        near = difflib.get_close_matches(wanted, record, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f", only {', '.join(map(repr, record)) or 'none'}"
        raise CorruptSample(name, f".json has no field {wanted!r}{hint}")
