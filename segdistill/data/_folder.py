"""Folders of images beside folders of label maps, paired by the files' stems."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segdistill.data._base import UNLABELED, Sample
from segdistill.data._image import SUFFIXES, is_turned, read_image, read_label
from segdistill.errors import DataError, UsageError

IdTable = npt.NDArray[np.int16]
"""One entry per 16-bit id: the class, IGNORE, or -1 where a file must not have that id."""


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

    def read(self, index: int) -> Sample:
        """Read a pair; see `Split`."""
        image_path, label_path = self.root / self.names[index], self.root / self.labels[index]
        image, label = read_image(image_path), read_label(label_path)
        if image.shape[:2] != label.shape:
            raise DataError(
                f"{image_path} has {_size(image)} pixels, its label {label_path} has {_size(label)}.",
                "The image is shown as its EXIF tag says, turned; the label was made for the image without that tag."
                if is_turned(image_path)
                else "Both must have the same size.",
            )
        return Sample(image, self._classes(label, label_path), self.names[index])

    def _classes(self, label: npt.NDArray[np.uint8 | np.uint16], path: Path) -> npt.NDArray[np.uint8]:
        classes = self.ids[label]
        if classes.min(initial=0) < 0:
            found, counts = np.unique(label[classes < 0], return_counts=True)
            listed = ", ".join(f"{i} ({n} px)" for i, n in zip(found[:5], counts[:5], strict=True))
            more = f" and {len(found) - 5} more ids" if len(found) > 5 else ""
            raise DataError(
                f"{path} has class ids that this data set has not: {listed}{more}.",
                f"Allowed ids: {_ranges(np.flatnonzero(self.ids >= 0))}.",
            )
        return classes.astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images without labels."""

    root: Path
    names: tuple[str, ...]
    fingerprint: str

    def read(self, index: int) -> Sample:
        """Read an image; see `Split`."""
        image = read_image(self.root / self.names[index])
        return Sample(image, np.full(image.shape[:2], UNLABELED, np.uint8), self.names[index])


def image_folder(path: str) -> ImageFolder:
    """Find the images in a folder and below it.

    Raises:
        UsageError: if there is no such folder.
        DataError: if it has no image.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UsageError(f"There is no folder of unlabelled images {root}.", "--unlabeled takes a folder of images.")
    files = sorted(
        file
        for file in root.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise DataError(f"{root} has no images.", f"Known endings: {', '.join(sorted(SUFFIXES))}.")
    names = tuple(str(file.relative_to(root)) for file in files)
    listing = [f"{name}\0{file.stat().st_size}" for name, file in zip(names, files, strict=True)]
    return ImageFolder(root, names, hashlib.sha256(os.fsencode("\0".join(listing))).hexdigest())


def id_table(classes: Mapping[int, int]) -> IdTable:
    """Build the table that brings ids of files (0..65535) to classes or IGNORE; all others are errors."""
    table = np.full(1 << 16, -1, np.int16)
    table[list(classes)] = list(classes.values())
    return table


def folder_split(root: Path, images: str, labels: str, ids: IdTable) -> FolderSplit:
    """Pair the images in one folder with the label maps in another.

    Raises:
        DataError: if a folder is missing or empty, a file has no partner, or two files share a stem.
    """
    image_files, label_files = _files(root, images), _files(root, labels)
    if not image_files:
        raise DataError(f"{root / images} has no images.", f"Known endings: {', '.join(sorted(SUFFIXES))}.")
    lonely = [
        _some(
            f"in {root / here} without a partner of the same name in {root / there}",
            (os.path.basename(mine[stem][0]) for stem in mine.keys() - others.keys()),
        )
        for here, mine, there, others in (
            (images, image_files, labels, label_files),
            (labels, label_files, images, image_files),
        )
        if mine.keys() - others.keys()
    ]
    if lonely:
        raise DataError("\n".join(lonely), "Each image needs its label map: a.jpg and a.png, say.")
    stems = sorted(image_files)
    listing = [f"{files[stem][0]}\0{files[stem][1]}" for files in (image_files, label_files) for stem in stems]
    return FolderSplit(
        root,
        tuple(image_files[stem][0] for stem in stems),
        tuple(label_files[stem][0] for stem in stems),
        ids,
        hashlib.sha256(os.fsencode("\0".join(listing))).hexdigest(),
    )


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
    root = Path(path).expanduser() if path else Path(base) / name
    if not root.is_dir():
        kind = "is not a folder" if root.exists() else "does not exist"
        raise UsageError(f"{name}: path not found: {root} {kind}.", f"Write {name}:PATH, or set SEGDISTILL_DATA.")
    return root


def _files(root: Path, folder: str) -> dict[str, tuple[str, int]]:
    """Return stem -> (path relative to root, bytes) of a folder's images."""
    found: dict[str, tuple[str, int]] = {}
    twice = []
    try:
        with os.scandir(root / folder) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                if suffix.lower() in SUFFIXES and not stem.startswith(".") and entry.is_file():
                    twice += [stem] if stem in found else []
                    found[stem] = (f"{folder}/{entry.name}", entry.stat().st_size)
    except OSError as error:
        raise DataError(f"{root / folder} cannot be read: {error.strerror}.") from None
    if twice:
        raise DataError(_some(f"in {root / folder} with more than one ending", twice), "Keep one file per name.")
    return found


def _some(what: str, names: Iterable[str], most: int = 10) -> str:
    ordered = sorted(names)
    count = "1 file is" if len(ordered) == 1 else f"{len(ordered)} files are"
    return f"{count} {what}: {', '.join(ordered[:most])}{', ...' if len(ordered) > most else ''}"


def _size(pixels: npt.NDArray[np.generic]) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _ranges(ids: Sequence[int] | npt.NDArray[np.intp]) -> str:
    runs = np.split(np.asarray(ids), np.flatnonzero(np.diff(ids) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
