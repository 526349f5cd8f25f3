"""Lists of names, train.txt and its kin: one image per line, with or without folder and ending, a label map behind it.

The words of a line are looked for among the files that are there, from the most exact reading to the least: as a path,
as a path without ending, as a bare name; lists come from other machines, and their paths with them.
"""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from segdistill.data.file_names import looks, split_suffix
from segdistill.data.listing import readable
from segdistill.errors import DataError
from segdistill.storage.files import read_file
from segdistill.wording import listed

HEADER_WORDS = re.compile(
    r"(image|img|file|filename|path|name|id|label|mask|annotation|split)(_?\w{0,8})?", re.IGNORECASE
)
"""Names of columns, as the first line of a table has them."""
NUMBERS = re.compile(r"-?\d")
"""What VOC writes behind a name: 1, -1 or 0, for whether a class is there."""


class ListedNames(NamedTuple):
    """A line of a list: names of files below one of the folders that were searched."""

    image: str
    label: str | None
    """None where the line has an image alone."""


@dataclass(frozen=True)
class FileFinder:
    """Finds files of a folder by whatever a list calls them."""

    bases: tuple[Path, ...]
    """Folders that a path in a list may be relative to: that of the data file, which names are relative to, first."""
    files: Mapping[str, str]
    """Paths relative to the folder that was searched, with "/" between the parts, and the names that they stand for."""

    def find(self, text: str, *, elsewhere: bool = True) -> str | None:
        """Return the name of the file that a text of a list means; None where there is none, or several could be meant.

        The text may be an end of a file's path or, from `elsewhere`, end with it; the file's ending may be missing.
        """
        path = os.path.normpath(text.replace("\\", "/"))
        found = self._exact(path) or self._by_end(path)
        if found is None and elsewhere:
            found = self._below(path) or self._by_looks(path)
        return found

    def _exact(self, path: str) -> str | None:
        if not split_suffix(path)[1]:
            return None
        for base in self.bases:
            if (base / path).is_file():
                return os.path.relpath(base / path, self.bases[0])
        return None

    def _below(self, path: str) -> str | None:
        for end in _ends(path):
            for name in (end, split_suffix(end)[0]):
                if name in self._whole_paths:
                    return self._only(self._whole_paths[name])
        return None

    def _by_end(self, path: str) -> str | None:
        for name in (path, split_suffix(path)[0]):
            whole = self._whole_paths.get(name) or self._path_ends.get(name, [])
            if len(whole) == 1:
                return self.files[whole[0]]
        return None

    def _by_looks(self, path: str) -> str | None:
        stem = split_suffix(path)[0]
        found = [self._looks.get(looks(end), []) for end in _ends(stem)]
        return next((self._only(files) for files in found if files), None)

    def _only(self, files: Sequence[str]) -> str | None:
        return self.files[files[0]] if len(files) == 1 else None

    @cached_property
    def _whole_paths(self) -> dict[str, list[str]]:
        return _grouped((key, file) for file in self.files for key in dict.fromkeys((file, split_suffix(file)[0])))

    @cached_property
    def _path_ends(self) -> dict[str, list[str]]:
        keys = ((file, split_suffix(file)[0]) for file in self.files)
        return _grouped((end, pair[0]) for pair in keys for end in dict.fromkeys([*_ends(pair[0]), *_ends(pair[1])]))

    @cached_property
    def _looks(self) -> dict[str, list[str]]:
        return _grouped((looks(split_suffix(file)[0]), file) for file in self.files)


def _ends(path: str) -> Iterator[str]:
    """Yield a path, and what is left of it without its first folders."""
    while path:
        yield path
        path = path.partition("/")[2]


def _grouped(entries: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the files of each key."""
    groups: dict[str, list[str]] = {}
    for key, file in entries:
        groups.setdefault(key, []).append(file)
    return groups


def read_name_list(path: Path, images: FileFinder, labels: FileFinder) -> list[ListedNames]:
    """Read a list of images, or of images and their label maps.

    Args:
        path: the list.
        images: finds images.
        labels: finds label maps.

    Raises:
        DataError: if it cannot be read, is empty, or a line names no file; with the first such lines.
    """
    with readable(path):
        text = read_file(path).decode("utf-8-sig", "replace")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise DataError(
            f"{path} has no names.", "Expected one image per line, and its label map behind it if you like."
        )
    rows: list[ListedNames] = []
    unknown: list[str] = []
    for number, line in lines:
        row = _read_line(line, images, labels)
        if row is not None:
            rows.append(row)
        elif not (number == lines[0][0] and _is_header(line)) and not line.startswith("#"):
            unknown.append(f"line {number} ({line})")
    if unknown or not rows:
        raise DataError(
            f"{path} has lines that name no image, or no label map, here ({len(unknown)}): {listed(unknown)}.",
            "Expected names of files below the folders of `images` and `labels`, or paths from the data file or the "
            "list, with or without endings.",
        )
    return rows


def _read_line(line: str, images: FileFinder, labels: FileFinder) -> ListedNames | None:
    """Return the files that a line names; None where it names no image, or no label map behind it."""
    image = images.find(line, elsewhere=False)  # first, as a name may have blanks and commas
    if image is not None:
        return ListedNames(image, None)
    for first, rest in _columns(line):
        image = images.find(first)
        if image is None:
            continue
        label = labels.find(rest[0])
        if label is not None or all(NUMBERS.fullmatch(column) for column in rest):
            return ListedNames(image, label)
    image = images.find(line)
    return None if image is None else ListedNames(image, None)


def _columns(line: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the ways to cut a line in a first and further columns."""
    for separator in "\t,;":
        columns = [column.strip() for column in next(csv.reader([line], delimiter=separator))]
        if len(columns) > 1 and columns[1]:
            yield columns[0], columns[1:]
    blanks = [match.span() for match in re.finditer(r"\s+", line)]
    for start, end in blanks:
        yield line[:start], [line[end:]]
        yield line[:start], line[end:].split()


def _is_header(line: str) -> bool:
    return all(HEADER_WORDS.fullmatch(column.strip(' "')) for column in re.split(r"[,;\t]|\s+", line))
