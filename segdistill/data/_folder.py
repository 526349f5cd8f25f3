"""Folders of images beside folders of label maps, paired by the files' names."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segdistill.data._base import SPLITS, UNLABELED, DataSource, IdTable, Sample, Split, StoredLabel
from segdistill.data._image import SUFFIXES, decode_image, decode_label
from segdistill.errors import DataError, UsageError
from segdistill.reading import read_file
from segdistill.types import IGNORE

DEEPEST = 200
"""Folders in one another."""
MOST_NAMED = 10
"""Files in a message."""
PICTURE = 30
"""Unknown ids in one file that are more likely the greys of a picture than classes that were forgotten."""


class Files(NamedTuple):
    """Files of one kind, or the names that a list holds."""

    place: str
    """The folder or the list, relative to the data set's folder."""
    found: Mapping[str, tuple[str, int]]
    """From what a pair has in common to the file, relative to the data set's folder, and its bytes."""
    twice: frozenset[str] = frozenset()
    """What more than one file has."""

    def without(self, keys: Iterable[str]) -> "Files":
        """Leave some out."""
        dropped = set(keys)
        return self._replace(found={key: file for key, file in self.found.items() if key not in dropped})

    def or_else(self, others: "Files") -> "Files":
        """Add others for what these have not."""
        twice = self.twice | (others.twice - self.found.keys())
        return Files(f"{self.place}/ or {others.place}", {**others.found, **self.found}, twice)

    def chosen(self, root: Path, keys: Iterable[str]) -> list[tuple[str, int]]:
        """Return the files that are wanted, in order.

        Raises:
            DataError: if one of them could be either of two.
        """
        if twice := self.twice.intersection(keys):
            raise DataError(
                _some(f"in {root / self.place} with more than one ending", twice),
                "Keep one file per name. Images and label maps belong in folders of their own.",
            )
        return [self.found[key] for key in keys]


@dataclass(frozen=True, eq=False)
class FolderSplit:
    """Pairs of files, their ids brought to classes."""

    root: Path
    names: tuple[str, ...]
    """The images, relative to `root`."""
    labels: tuple[str, ...]
    """Their label maps, relative to `root`."""
    ids: IdTable
    fingerprint: str
    decode: Callable[[Path], StoredLabel] = decode_label
    advice: str = ""
    """What to do about an id that is no class's, after those that are."""

    def read(self, index: int) -> Sample:
        """Read a pair; see `Split`."""
        image_path, label_path = self.root / self.names[index], self.root / self.labels[index]
        (image, stored_image), label = decode_image(image_path), self.decode(label_path)
        if image.shape[:2] != label.ids.shape:
            raise DataError(
                f"{image_path} has {_size(image)} pixels, its label {label_path} has {_size(label.ids)}.",
                _size_advice(stored_image.orientation, label.orientation),
            )
        # up to 4 it is mirrored or upside down
        told_by_sizes = (stored_image.orientation > 4) != (label.orientation > 4) and image.shape[0] != image.shape[1]
        doubtful = stored_image.orientation != label.orientation and not told_by_sizes
        stored_label = replace(label, classes=self.ids, name=self.labels[index])
        classes = self._classes(label, label_path)
        return Sample(image, classes, self.names[index], doubtful, stored_image, stored_label)

    def digest(self, index: int) -> bytes:
        """Identify an image; see `Split`."""
        return _digest(self.root / self.names[index])

    def _classes(self, label: StoredLabel, path: Path) -> npt.NDArray[np.uint8]:
        ids = label.ids
        classes = cv2.LUT(ids, self.ids[:256]) if ids.dtype == np.uint8 else self.ids[ids]
        if label.transparent is not None:
            classes[label.transparent] = IGNORE
        if classes.min(initial=0) < 0:
            found, counts = np.unique(ids[classes < 0], return_counts=True)
            listed = ", ".join(f"{i} ({n} px)" for i, n in zip(found[:5], counts[:5], strict=True))
            more = f" and {len(found) - 5} more ids" if len(found) > 5 else ""
            advice = f"Allowed ids: {_ranges(np.flatnonzero(self.ids >= 0))}. {self.advice}".rstrip()
            if len(found) >= PICTURE:
                advice += "\nSo many come from a picture in place of a label map, or from resizing or soft borders."
            raise DataError(f"{path} has class ids that this data set has not: {listed}{more}.", advice)
        return classes.astype(np.uint8)


def _size_advice(image: int, label: int) -> str:
    """Return why an image and a label map of these EXIF orientations may be of two sizes."""
    if image > 1 and label == 1:
        return "The image is shown as its EXIF tag says, turned; the label was made for the image without that tag."
    if image != label:
        return (
            "The label map has an EXIF tag of its own, which turns it. Save it without the tag, as its image is shown."
        )
    return "Both must have the same size."


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images without labels."""

    root: Path
    names: tuple[str, ...]
    fingerprint: str

    def read(self, index: int) -> Sample:
        """Read an image; see `Split`."""
        image, stored = decode_image(self.root / self.names[index])
        label = np.full(image.shape[:2], UNLABELED, np.uint8)
        return Sample(image, label, self.names[index], stored_image=stored)

    def digest(self, index: int) -> bytes:
        """Identify an image; see `Split`."""
        return _digest(self.root / self.names[index])


def image_folder(path: str) -> ImageFolder:
    """Find the images in a folder and below it.

    Raises:
        UsageError: if there is no such folder.
        DataError: if it has no image, or something in it cannot be read.
    """
    root = Path(os.path.expanduser(path))
    if not root.is_dir():
        raise UsageError(f"There is no folder of unlabelled images {root}.", "--unlabeled takes a folder of images.")
    files = []
    for file in sorted(images_below(root)):
        with _readable(file):
            files.append((str(file.relative_to(root)), file.stat().st_size))
    return _image_folder(root, "", files)


def images_below(root: Path) -> Iterator[Path]:
    """Yield what is called like an image in a folder and below it: files and links to nothing, nothing hidden.

    Links are followed, but into no folder twice: of its names, the one that comes first in the order of paths counts.

    Raises:
        DataError: on the way, if a folder cannot be read, or folders lie too deep in one another.
    """
    waiting, seen = [root], set[tuple[int, int]]()
    while waiting:
        folder = waiting.pop()
        if len(folder.parts) - len(root.parts) > DEEPEST:
            raise DataError(f"{root} has folders more than {DEEPEST} deep in one another.", "Move the images up.")
        with _readable(folder), os.scandir(folder) as entries:
            own = folder.stat()
            names = sorted((entry.name for entry in entries), reverse=True)  # the last that waits is looked at first
        visible = [folder / name for name in names if not name.startswith(".") and name != "__MACOSX"]
        if (own.st_dev, own.st_ino) in seen:
            continue
        seen.add((own.st_dev, own.st_ino))
        for path in visible:
            if os.path.isdir(path):
                waiting.append(path)
            elif path.suffix.lower() in SUFFIXES and (os.path.isfile(path) or not os.path.exists(path)):
                yield path


def unlabeled(root: Path, images: Files) -> ImageFolder:
    """Make a split of images without labels.

    Raises:
        DataError: if there are none, or one could be either of two files.
    """
    return _image_folder(root, images.place, images.chosen(root, sorted(images.found)))


def id_table(classes: Mapping[int, int]) -> IdTable:
    """Build the table that brings ids of files (0..65535) to classes or IGNORE; all others are errors."""
    table = np.full(1 << 16, -1, np.int16)
    table[list(classes)] = list(classes.values())
    return table


def folder_split(root: Path, images: str, labels: str, ids: IdTable) -> FolderSplit:
    """Pair the images in one folder with the label maps of the same names in another; see `paired`."""
    return paired(root, files_in(root, images), files_in(root, labels), ids)


def paired(
    root: Path,
    images: Files,
    labels: Files,
    ids: IdTable,
    *,
    listed: Files | None = None,
    decode: Callable[[Path], StoredLabel] = decode_label,
) -> FolderSplit:
    """Pair images with label maps: all of them, or those that a list names.

    Raises:
        DataError: if there are no images, or one of a pair is missing or could be either of two files.
    """
    wanted = images if listed is None else listed
    if not wanted.found:
        raise _no_images(root / wanted.place)
    needs = ((wanted, labels), (labels if listed is None else wanted, images))
    lonely = [
        _some(
            f"in {root / here.place} without a partner of the same name in {root / there.place}",
            (os.path.basename(here.found[key][0]) for key in missing),
        )
        for here, there in needs
        if (missing := here.found.keys() - there.found.keys())
    ]
    if lonely:
        raise DataError("\n".join(lonely), "Each image needs its label map: a.jpg and a.png, say.")
    keys = sorted(wanted.found)
    chosen = [files.chosen(root, keys) for files in (images, labels)]
    names = [tuple(name for name, _ in files) for files in chosen]
    return FolderSplit(root, names[0], names[1], ids, _fingerprint(chosen[0] + chosen[1]), decode)


def files_in(root: Path, folder: str, ending: str = "", suffixes: Iterable[str] = SUFFIXES) -> Files:
    """Find the files in a folder; `ending`, the part of their names before the suffix, is not common to a pair.

    Raises:
        DataError: if the folder or a link in it cannot be read.
    """
    found: dict[str, tuple[str, int]] = {}
    twice = set()
    with _readable(root / folder), os.scandir(root / folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            known = suffix.lower() in suffixes and stem.endswith(ending) and not stem.startswith(".")
            if known and stat.S_ISREG((status := entry.stat()).st_mode):  # unlike is_file, it fails on a broken link
                key = stem.removesuffix(ending)
                twice |= {key} & found.keys()
                found[key] = (f"{folder}/{entry.name}", status.st_size)
    return Files(f"{folder}/*{ending}" if ending else folder, found, frozenset(twice))


def files_below(root: Path, folder: str, ending: str) -> Files:
    """Find the files in the folders of a folder; see `files_in`."""
    with _readable(root / folder), os.scandir(root / folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
        inner = sorted(entry.name for entry in visible if stat.S_ISDIR(entry.stat().st_mode))
    parts = [files_in(root, f"{folder}/{name}", ending) for name in inner]
    found = {key: file for part in parts for key, file in part.found.items()}
    return Files(f"{folder}/*/*{ending}", found, frozenset().union(*(part.twice for part in parts)))


def lists_in(root: Path, files: Mapping[str, str]) -> dict[str, Files]:
    """Read the lists of a data set's splits, those that are there; see `names_in`.

    Raises:
        DataError: if none is there, or one cannot be read.
    """
    there = {split: file for split, file in files.items() if os.path.lexists(root / file)}
    return {split: names_in(root, file) for split, file in (there or files).items()}


def names_in(root: Path, file: str) -> Files:
    """Read a list of images: one per line, with or without folder and suffix; a label map after it is passed over.

    Lists from Windows are read too: a byte order mark, backslashes and its ends of lines.

    Raises:
        DataError: if it cannot be read.
    """
    with _readable(root / file):
        lines = read_file(root / file).decode("utf-8-sig", "replace").replace("\\", "/").splitlines()
    stems = [Path(line.split()[0]).stem for line in lines if line.strip()]
    return Files(file, {stem: (stem, 0) for stem in stems})


def data_root(name: str, path: str) -> Path:
    """Return the folder of a data set: `path`, or where that is empty $SEGDISTILL_DATA/NAME.

    Raises:
        UsageError: if there is no such folder.
    """
    base = os.environ.get("SEGDISTILL_DATA", "")
    if not path and not base:
        raise UsageError(
            f"Where is {name}?", f"Write {name}:PATH, or set SEGDISTILL_DATA to the folder that holds {name}/."
        )
    root = Path(os.path.expanduser(path)) if path else Path(os.path.expanduser(base)) / name
    if not root.is_dir():
        kind = "is not a folder" if root.exists() else "does not exist"
        raise UsageError(f"{name}: path not found: {root} {kind}.", f"Write {name}:PATH, or set SEGDISTILL_DATA.")
    return root


def layout_root(name: str, path: str, *, known_by: Sequence[str], inside: Sequence[str] = (), expected: str) -> Path:
    """Return the folder that has one of the folders `known_by`: the data set's own, or the first of `inside` in it.

    Raises:
        UsageError: if there is no folder at all; see `data_root`.
        DataError: if none is laid out like that.
    """
    root = data_root(name, path)
    for place in (root, *(root / folder for folder in inside)):
        if any((place / folder).is_dir() for folder in known_by):
            return place
    raise DataError(f"{root} is not laid out as {name} is: it has {_listing(root)}.", f"Expected {expected}.")


def data_source(
    name: str,
    classes: tuple[str, ...],
    palette: tuple[tuple[int, int, int], ...],
    splits: Mapping[str, Split],
    usual: Mapping[str, Sequence[int]],
    warnings: Sequence[str] = (),
) -> DataSource:
    """Put a data set together; absent splits and numbers of images that are not in `usual` are warnings too."""
    absent = [f"{name} has no {split} split here." for split in SPLITS if split in usual and split not in splits]
    counts = {split: len(images.names) for split, images in splits.items()}
    unusual = [
        f"{name}'s {split} split has {count} images here; it usually has {' or '.join(map(str, usual[split]))}."
        for split, count in counts.items()
        if count not in usual[split]
    ]
    return DataSource(name, classes, palette, splits, (*warnings, *absent, *unusual))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or path
        fix = f"It is a link to {os.readlink(place)}." if os.path.islink(place) else _nearby(Path(os.fsdecode(place)))
        raise DataError(f"{place} cannot be read: {error.strerror}.", fix) from None


def _nearby(path: Path) -> str:
    """Say what there is in place of a file or folder that is gone; nothing of one that is there."""
    folder = next((parent for parent in path.parents if parent.is_dir()), path)
    return "" if path.exists() or folder == path else f"{folder} has {_listing(folder)}."


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "") if names else "nothing"


def _image_folder(root: Path, place: str, files: Sequence[tuple[str, int]]) -> ImageFolder:
    if not files:
        raise _no_images(root / place)
    return ImageFolder(root, tuple(name for name, _ in files), _fingerprint(files))


def _no_images(path: Path) -> DataError:
    endings = ", ".join(sorted(SUFFIXES))
    return DataError(
        f"{path} has no images.", f"Give a folder with files ({endings}), or a list of names, one per line."
    )


def _digest(path: Path) -> bytes:
    with _readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _fingerprint(files: Iterable[tuple[str, int]]) -> str:
    return hashlib.sha256(os.fsencode("\0".join(f"{name}\0{size}" for name, size in files))).hexdigest()


def _some(what: str, names: Iterable[str]) -> str:
    ordered = sorted(names)
    count = "1 file is" if len(ordered) == 1 else f"{len(ordered)} files are"
    return f"{count} {what}: {', '.join(ordered[:MOST_NAMED])}{', ...' if len(ordered) > MOST_NAMED else ''}"


def _size(pixels: npt.NDArray[np.generic]) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _ranges(ids: Sequence[int] | npt.NDArray[np.intp]) -> str:
    runs = np.split(np.asarray(ids), np.flatnonzero(np.diff(ids) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
