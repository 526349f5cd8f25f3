"""Finding files: which images and label maps lie in a folder, below it, or in a list of names."""

import os
import stat
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from segdistill.data.image_file import SUFFIXES
from segdistill.errors import DataError
from segdistill.storage.files import read_file
from segdistill.wording import listed

MAX_DEPTH = 200
"""Folders in one another: more than anybody has, and few enough for the longest path that Linux opens."""
MACOS_EXTRAS = "__MACOSX"
"""The folder in which archives from macOS keep a resource fork under the name of every file."""


class FoundFile(NamedTuple):
    """A file as its folder lists it."""

    name: str
    """Path relative to the data set's folder."""
    size: int
    """Bytes; 0 for a name in a list."""


class FileIndex(NamedTuple):
    """Files of one kind, or the names in a list, by the part of the name that an image and its label map share."""

    location: str
    """The folder or the list, relative to the data set's folder, as messages name it."""
    files: Mapping[str, FoundFile]
    """The file of each shared part, such as the stem."""
    ambiguous: frozenset[str] = frozenset()
    """Shared parts that more than one file has: a.png and a.jpg."""

    def without(self, keys: Iterable[str]) -> "FileIndex":
        """Leave some files out."""
        dropped = set(keys)
        return self._replace(files={key: file for key, file in self.files.items() if key not in dropped})

    def with_fallback(self, fallback: "FileIndex") -> "FileIndex":
        """Add files of another index where this one has none."""
        ambiguous = self.ambiguous | (fallback.ambiguous - self.files.keys())
        location = f"{self.location}/ or {fallback.location}"
        return FileIndex(location, {**fallback.files, **self.files}, ambiguous)

    def select(self, root: Path, keys: Iterable[str]) -> list[FoundFile]:
        """Return the files of some keys, in the keys' order.

        Raises:
            DataError: if one of them could be either of two.
        """
        keys = list(keys)
        ambiguous = self.ambiguous.intersection(keys)
        if ambiguous:
            raise DataError(
                f"Files in {root / self.location} with more than one ending ({len(ambiguous)}): "
                f"{listed(sorted(ambiguous))}.",
                "Keep one file per name. Images and label maps belong in folders of their own.",
            )
        return [self.files[key] for key in keys]


def files_in(root: Path, folder: str, ending: str = "", suffixes: Iterable[str] = SUFFIXES) -> FileIndex:
    """Find the files in a folder; `ending`, the part of their names before the suffix, is not common to a pair.

    Raises:
        DataError: if the folder or a link in it cannot be read.
    """
    files: dict[str, FoundFile] = {}
    ambiguous = set()
    with readable(root / folder), os.scandir(root / folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() not in suffixes or not stem.endswith(ending) or stem.startswith("."):
                continue
            # Unlike entry.is_file(), stat() fails on a broken link: the pair would vanish without a word.
            status = entry.stat()
            if not stat.S_ISREG(status.st_mode):
                continue
            key = stem.removesuffix(ending)
            if key in files:
                ambiguous.add(key)
            files[key] = FoundFile(f"{folder}/{entry.name}", status.st_size)
    location = f"{folder}/*{ending}" if ending else folder
    return FileIndex(location, files, frozenset(ambiguous))


def files_below(root: Path, folder: str, ending: str) -> FileIndex:
    """Find the files in the folders of a folder, such as one per city; see `files_in`."""
    with readable(root / folder), os.scandir(root / folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
        subfolders = [entry.name for entry in visible if stat.S_ISDIR(entry.stat().st_mode)]
    files: dict[str, FoundFile] = {}
    ambiguous: set[str] = set()
    for name in sorted(subfolders):
        index = files_in(root, f"{folder}/{name}", ending)
        files.update(index.files)
        ambiguous.update(index.ambiguous)
    return FileIndex(f"{folder}/*/*{ending}", files, frozenset(ambiguous))


def images_below(root: Path, suffixes: Container[str] = SUFFIXES) -> Iterator[Path]:
    """Yield what is called like an image in a folder and below it: files and links to nothing, nothing hidden.

    Links are followed, but into no folder twice: of its names, the one that comes first in the order of paths counts.

    Raises:
        DataError: on the way, if a folder cannot be read, or folders lie too deep in one another.
    """
    return (path for path in files_below_folder(root) if path.suffix.lower() in suffixes)


def files_below_folder(root: Path) -> Iterator[Path]:
    """Yield all files in a folder and below it; see `images_below`."""
    waiting = [root]
    visited = set[tuple[int, int]]()  # device and inode: a link back to a folder above would never end
    while waiting:
        folder = waiting.pop()
        if len(folder.parts) - len(root.parts) > MAX_DEPTH:
            raise DataError(f"{root} has folders nested more than {MAX_DEPTH} deep.", "Move the images up.")
        with readable(folder):
            status = folder.stat()
            names = _visible_names(folder)
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        for name in reversed(names):  # the last that waits is looked at first
            path = folder / name
            if os.path.isdir(path):
                waiting.append(path)
            elif _is_file_or_broken(path):
                yield path


def _visible_names(folder: Path) -> list[str]:
    """Return the names in a folder in order, without hidden ones and what archives of macOS add."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.name != MACOS_EXTRAS)


def _is_file_or_broken(path: Path) -> bool:
    """Whether a path is a regular file, or a link to nothing, which whoever reads it should hear of."""
    return os.path.isfile(path) or not os.path.exists(path)


def read_lists(root: Path, lists: Mapping[str, str]) -> dict[str, FileIndex]:
    """Read the lists of a data set's splits, those that are there; see `read_list`.

    Args:
        root: the data set's folder.
        lists: file of each split, relative to `root`.

    Raises:
        DataError: if none is there, or one cannot be read.
    """
    present = {split: file for split, file in lists.items() if os.path.lexists(root / file)}
    if not present:
        present = dict(lists)  # reading the first of them says what is there in its place
    return {split: read_list(root, file) for split, file in present.items()}


def read_list(root: Path, file: str) -> FileIndex:
    """Read a list of images: one per line, with or without folder and suffix; a label map after it is passed over.

    Lists from Windows are read too: a byte order mark, backslashes and its ends of lines.

    Raises:
        DataError: if it cannot be read.
    """
    with readable(root / file):
        text = read_file(root / file).decode("utf-8-sig", "replace")
    files = {}
    for line in text.replace("\\", "/").splitlines():
        columns = line.split()
        if columns:
            stem = Path(columns[0]).stem
            files[stem] = FoundFile(stem, 0)
    return FileIndex(file, files)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one that says what is there instead.

    Args:
        path: what is read, where the error itself does not name it.

    Raises:
        DataError: with where a broken link leads, or what the nearest existing folder has.
    """
    try:
        yield
    except OSError as error:
        failed = error.filename or path
        if os.path.islink(failed):
            fix = f"It is a link to {os.readlink(failed)}."
        else:
            fix = _nearest_folder(Path(os.fsdecode(failed)))
        raise DataError(f"{failed} cannot be read: {error.strerror}.", fix) from None


def _nearest_folder(path: Path) -> str:
    """Say what the nearest folder above a missing path has; nothing of a path that is there."""
    folder = next((parent for parent in path.parents if parent.is_dir()), path)
    if path.exists() or folder == path:
        return ""
    return f"{folder} has {folder_contents(folder)}."


def folder_contents(folder: Path) -> str:
    """Return the first names in a folder, for a message; "nothing" of an empty one."""
    names = sorted(entry.name for entry in folder.iterdir())
    return listed(names) or "nothing"
