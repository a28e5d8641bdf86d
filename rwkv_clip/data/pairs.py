"""Image-text pairs listed in a CSV or TSV file."""

import csv
import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vrwkv.data.source import CorruptSample, open_image
from vrwkv.data.strings import PackedStrings
from vrwkv.errors import InputError

CHECKED_ROWS = 100_000
_NAMED_SEPARATORS = {"\\t": "\t", "tab": "\t", "comma": ",", "semicolon": ";"}


class PairSource:
    """One sample for each row: an image file and its caption.

    The file is UTF-8 text with a header. Several rows may name the same image; they stay separate samples.
    Up to 100,000 rows, every caption and every image file's existence are checked at the start. In larger sets, whose
    check can take minutes on a network drive, a bad row is a corrupt sample when it is met.

    Args:
        file: the .csv or .tsv file.
        image_column: column of the image's path; relative paths start at the folder of `file`.
        caption_column: column of the caption.
        separator: between columns; by default a tab for .tsv and .tab, else a comma.

    Raises:
        InputError: no such file or column, no rows, or rows with an empty caption or a missing image.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        image_column: str = "filepath",
        caption_column: str = "title",
        separator: str = "",
    ) -> None:
        self.file = Path(file)
        _check_is_file(self.file)
        separator = _separator(self.file, separator)
        lines: list[int] = []
        captions: list[str] = []

        def paths() -> Iterator[str]:
            for line, path, caption in _rows(self.file, separator, image_column, caption_column):
                lines.append(line)
                captions.append(caption)
                yield path

        self._paths = PackedStrings(paths())
        self._captions = PackedStrings(captions)
        self._lines = np.array(lines, dtype=np.int64)
        if not len(self):
            raise InputError(f"{self.file} has a header but no rows")
        if len(self) <= CHECKED_ROWS:
            self._check_rows()

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A dict with "image", "captions" (one) and "name"."""
        captions = self.captions(index)
        image = open_image(self._image_path(index), self.name(index))
        return {"image": image, "captions": captions, "name": self.name(index)}

    def name(self, index: int) -> str:
        """Where the sample stands, e.g. "pairs.csv line 7 (img/a.jpg)"."""
        path = self._paths[index]
        return f"{self.file.name} line {self._lines[index]}" + (f" ({path})" if path else "")

    def captions(self, index: int) -> list[str]:
        """The row's caption, in a list. Raises CorruptSample if the row is incomplete."""
        problem = self._text_problem(index)
        if problem:
            raise CorruptSample(self.name(index), problem)
        return [self._captions[index]]

    def image_key(self, index: int) -> str:
        """The image's path, normalised."""
        return os.path.normpath(self._image_path(index))

    def _image_path(self, index: int) -> str:
        return os.path.join(self.file.parent, self._paths[index])

    def _text_problem(self, index: int) -> str | None:
        if not self._paths[index]:
            return "no image path"
        if not self._captions[index]:
            return "empty caption"
        return None

    def _check_rows(self) -> None:
        first = None
        count = 0
        for index in range(len(self)):
            problem = self._text_problem(index)
            if problem is None and not os.path.isfile(self._image_path(index)):
                problem = f"image file {self._image_path(index)} does not exist"
            if problem is not None:
                count += 1
                first = first or f"{self.file} line {self._lines[index]}: {problem}"
        if first:
            total = f"{count} of {len(self)} rows {'has a problem' if count == 1 else 'have problems'}"
            raise InputError(f"{first} ({total}; relative paths start at {self.file.parent})")


def _check_is_file(file: Path) -> None:
    if file.is_file():
        return
    siblings = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
    near = difflib.get_close_matches(file.name, siblings, n=1)
    hint = f"; did you mean {file.parent / near[0]}?" if near else ""
    what = "is a folder, expected a .csv or .tsv file" if file.is_dir() else "does not exist"
    raise InputError(f"pairs file {file} {what}{hint}")


def _separator(file: Path, given: str) -> str:
    if not given:
        return "\t" if file.suffix.lower() in (".tsv", ".tab") else ","
    separator = _NAMED_SEPARATORS.get(given, given)
    if len(separator) != 1:
        raise InputError(f"separator {given!r} must be one character, or 'tab'")
    return separator


def _rows(file: Path, separator: str, image_column: str, caption_column: str) -> Iterator[tuple[int, str, str]]:
    """First line number, image path and caption of each row; a missing cell is empty."""
    reader = None
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=separator)
            header = [name.strip() for name in next(reader, [])]
            if not any(header):
                raise InputError(f"{file} is empty: expected a header with {image_column!r} and {caption_column!r}")
            image, caption = (_column(file, header, name, separator) for name in (image_column, caption_column))
            line = reader.line_num + 1
            for cells in reader:
                if cells:
                    cells += [""] * (len(header) - len(cells))
                    yield line, cells[image].strip(), cells[caption].strip()
                line = reader.line_num + 1
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8 text: save it in that encoding") from None
    except csv.Error as error:
        raise InputError(f"{file} line {reader.line_num if reader else 1}: {error}") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None


def _column(file: Path, header: list[str], name: str, separator: str) -> int:
    if name in header:
        return header.index(name)
    others = [other for other in ("\t", ";", ",", "|") if other != separator and name in header[0].split(other)]
    near = difflib.get_close_matches(name, header, n=1)
    if others:
        hint = f"; its header is separated by {others[0]!r}: set the separator"
    elif near:
        hint = f"; did you mean {near[0]!r}?"
    else:
        hint = ""
    raise InputError(f"{file} has no column {name!r}, only {', '.join(map(repr, header))}{hint}")
