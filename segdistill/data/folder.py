"""Splits that lie in folders: images with the label maps of the same names, and images without labels."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from segdistill.data.base import UNLABELED, Ids, IdTable, Pixels, Sample, StoredLabel
from segdistill.data.image import decode_image
from segdistill.data.label_map import decode_label
from segdistill.data.listing import FileIndex, FoundFile, files_in, images_below, readable
from segdistill.data.missing_partners import PAIR_ADVICE, no_images_error
from segdistill.errors import DataError, UsageError
from segdistill.types import IGNORE
from segdistill.wording import listed

MAX_LISTED_IDS = 5
"""Unknown ids in a message, each with its pixels."""
PICTURE_IDS = 30
"""Unknown ids in one file that are more likely the grays of a picture than classes that were forgotten."""
MIN_SOFT_IDS = 5
"""Ids of a mask with soft borders: two for the classes, and some for the borders."""
MIN_SOFT_STEP = 100
"""Difference of the two classes' ids: less is no black and white."""
MIN_PEAKS_SHARE = 0.5
"""Share of a mask's pixels that have one of two ids where those between are its soft borders."""
MAX_MIRRORING = 4
"""EXIF orientations up to this one mirror an image or turn it upside down; those above exchange its sides."""
NO_CLASS = -1
"""Entry of an `IdTable` for an id that a label map must not have."""


@dataclass(frozen=True, eq=False)
class FolderSplit:
    """Pairs of files, their ids brought to classes."""

    root: Path
    names: tuple[str, ...]
    """Images, relative to `root`."""
    labels: tuple[str, ...]
    """Label maps of the images, relative to `root`."""
    classes_by_id: IdTable
    fingerprint: str
    """Digest of the names and sizes of all files."""
    decode: Callable[[Path], StoredLabel] = decode_label
    """Reads a label map's file."""
    advice: str = ""
    """Sentence on what to do about an unknown id, behind the list of the known ones."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, for that advice; empty where it is not the user who says what ids mean."""

    def read(self, index: int) -> Sample:
        """Read a pair; see `Split`."""
        image_path = self.root / self.names[index]
        label_path = self.root / self.labels[index]
        image, stored_image = decode_image(image_path)
        stored_label = self.decode(label_path)
        if image.shape[:2] != stored_label.ids.shape:
            raise DataError(
                f"{image_path} has {_size_text(image)} pixels, its label {label_path} has "
                f"{_size_text(stored_label.ids)}.",
                _size_advice(stored_image.orientation, stored_label.orientation),
            )
        return Sample(
            image,
            label=self._to_classes(stored_label, label_path),
            name=self.names[index],
            orientation_unclear=_is_orientation_unclear(image, stored_image.orientation, stored_label.orientation),
            stored_image=stored_image,
            stored_label=replace(stored_label, classes=self.classes_by_id, name=self.labels[index]),
        )

    def digest(self, index: int) -> bytes:
        """Identify an image; see `Split`."""
        return _file_digest(self.root / self.names[index])

    def _to_classes(self, label: StoredLabel, path: Path) -> Pixels:
        """Return the classes (H, W) of a label map's ids.

        Raises:
            DataError: if it has an id that is no class's.
        """
        ids = label.ids
        classes = _look_up(ids, self.classes_by_id)
        if label.transparent is not None:
            classes[label.transparent] = IGNORE
        if classes.min(initial=0) < 0:
            raise self._unknown_ids(ids, ids[classes < 0], path)
        return classes.astype(np.uint8)

    def _unknown_ids(self, ids: Ids, unknown_ids: Ids, path: Path) -> DataError:
        """Return the error about a label map with pixels (N,) of ids that are no class's."""
        unknown, counts = np.unique(unknown_ids, return_counts=True)
        pixels = [f"{id_} ({count} px)" for id_, count in zip(unknown, counts, strict=True)]
        text = listed(pixels[:MAX_LISTED_IDS])
        if len(unknown) > MAX_LISTED_IDS:
            text += f" and {len(unknown) - MAX_LISTED_IDS} more ids"
        advice = f"Allowed ids: {_ranges(np.flatnonzero(self.classes_by_id >= 0))}. {self.advice}".rstrip()
        ranges = soft_border_ranges(ids, self.class_names)
        if ranges:
            advice += (
                "\nTwo ids have most of the pixels, and all others lie between: these are soft borders. Read them by "
                f"ranges in the data.toml:\n{ranges}"
            )
        elif len(unknown) >= PICTURE_IDS:
            advice += "\nSo many come from a picture in place of a label map, or from resizing or soft borders."
        return DataError(f"{path} has class ids that this data set does not have: {text}.", advice)


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images without labels."""

    root: Path
    names: tuple[str, ...]
    """Images, relative to `root`."""
    fingerprint: str
    """Digest of the names and sizes of all files."""

    def read(self, index: int) -> Sample:
        """Read an image; see `Split`."""
        image, stored_image = decode_image(self.root / self.names[index])
        label = np.full(image.shape[:2], UNLABELED, np.uint8)
        return Sample(image, label, self.names[index], stored_image=stored_image)

    def digest(self, index: int) -> bytes:
        """Identify an image; see `Split`."""
        return _file_digest(self.root / self.names[index])


def id_table(classes: Mapping[int, int]) -> IdTable:
    """Build the table that brings ids of files (0..65535) to classes or IGNORE; all others are errors."""
    table = np.full(1 << 16, NO_CLASS, np.int16)
    table[list(classes)] = list(classes.values())
    return table


def folder_split(root: Path, images: str, labels: str, *, classes_by_id: IdTable) -> FolderSplit:
    """Pair the images in one folder with the label maps of the same names in another; see `pair_files`."""
    return pair_files(root, files_in(root, images), files_in(root, labels), classes_by_id=classes_by_id)


def pair_files(
    root: Path,
    images: FileIndex,
    labels: FileIndex,
    *,
    classes_by_id: IdTable,
    listed_images: FileIndex | None = None,
    decode: Callable[[Path], StoredLabel] = decode_label,
) -> FolderSplit:
    """Pair images with label maps: all of them, or those that a list names.

    Raises:
        DataError: if there are no images, or one of a pair is missing or could be either of two files.
    """
    if listed_images is None:
        wanted = images
        partners = [(images, labels), (labels, images)]
    else:  # what is beside the listed images and label maps does not matter
        wanted = listed_images
        partners = [(listed_images, labels), (listed_images, images)]
    if not wanted.files:
        raise no_images_error(root / wanted.location)
    complaints = [_without_partner(root, files, partner) for files, partner in partners]
    found = [complaint for complaint in complaints if complaint]
    if found:
        raise DataError("\n".join(found), PAIR_ADVICE)
    keys = sorted(wanted.files)
    return split_of_files(
        root, images.select(root, keys), labels.select(root, keys), classes_by_id=classes_by_id, decode=decode
    )


def split_of_files(
    root: Path,
    images: Sequence[FoundFile],
    labels: Sequence[FoundFile],
    *,
    classes_by_id: IdTable,
    decode: Callable[[Path], StoredLabel] = decode_label,
) -> FolderSplit:
    """Make a split of images and their label maps, in this order."""
    return FolderSplit(
        root,
        names=tuple(file.name for file in images),
        labels=tuple(file.name for file in labels),
        classes_by_id=classes_by_id,
        fingerprint=_listing_digest([*images, *labels]),
        decode=decode,
    )


def split_without_labels(root: Path, images: Sequence[FoundFile]) -> ImageFolder:
    """Make a split of images without labels, in this order."""
    return ImageFolder(root, tuple(file.name for file in images), _listing_digest(images))


def unlabeled_split(root: Path, images: FileIndex) -> ImageFolder:
    """Make a split of images without labels.

    Raises:
        DataError: if there are none, or one could be either of two files.
    """
    return _image_folder(root, images.location, images.select(root, sorted(images.files)))


def image_folder(path: str, flag: str = "--unlabeled") -> ImageFolder:
    """Find the images in a folder and below it; `flag` is what messages say that it was named by.

    Raises:
        UsageError: if there is no such folder.
        DataError: if it has no image, or something in it cannot be read.
    """
    root = Path(os.path.expanduser(path))
    if not root.is_dir():
        raise UsageError(f"Folder of unlabeled images not found: {root}.", f"{flag} takes a folder of images.")
    files = []
    for file in sorted(images_below(root)):
        with readable(file):
            files.append(FoundFile(str(file.relative_to(root)), file.stat().st_size))
    return _image_folder(root, "", files)


def _image_folder(root: Path, location: str, files: Sequence[FoundFile]) -> ImageFolder:
    if not files:
        raise no_images_error(root / location)
    return split_without_labels(root, files)


def _without_partner(root: Path, files: FileIndex, partner: FileIndex) -> str:
    """Name the files that are in one index and not in the other; empty if each has its partner."""
    lonely_keys = files.files.keys() - partner.files.keys()
    if not lonely_keys:
        return ""
    names = sorted(os.path.basename(files.files[key].name) for key in lonely_keys)
    return (
        f"Files in {root / files.location} without a partner of the same name in {root / partner.location} "
        f"({len(names)}): {listed(names)}."
    )


def soft_border_ranges(ids: Ids, class_names: Sequence[str]) -> str:
    """Return the table [ids] that divides the ids of a mask with soft borders; empty where a label map is none."""
    found, counts = np.unique(ids, return_counts=True)
    peaks = soft_peaks(found.tolist(), counts.tolist())
    if len(class_names) != 2 or peaks is None:
        return ""
    low, high = peaks
    middle = (low + high + 1) // 2
    names = [json.dumps(name, ensure_ascii=False) for name in class_names]
    return f'[ids]\n"0-{middle - 1}" = {names[0]}\n"{middle}-{max(high, IGNORE)}" = {names[1]}'


def soft_peaks(ids: Sequence[int], counts: Sequence[int]) -> tuple[int, int] | None:
    """Return the two ids of a mask between which its soft borders lie; None where a label map is none.

    Two ids have most of the pixels, and they are the lowest and the highest: whatever lies between is a border.
    """
    frequent = sorted(zip(counts, ids, strict=True), reverse=True)[:2]
    if len(ids) < MIN_SOFT_IDS or sum(count for count, _ in frequent) < MIN_PEAKS_SHARE * sum(counts):
        return None
    low, high = sorted(id_ for _, id_ in frequent)
    quarter = (high - low) // 4
    has_middle = any(low + quarter <= id_ <= high - quarter for id_ in ids)  # few classes, and 255 for void, have none
    return (low, high) if (low, high) == (min(ids), max(ids)) and high - low >= MIN_SOFT_STEP and has_middle else None


def _look_up(ids: Ids, table: IdTable) -> npt.NDArray[np.int16]:
    """Return the entry (H, W) of each id, as an array of its own."""
    if ids.dtype == np.uint8:
        return np.asarray(cv2.LUT(ids, table[:256]), np.int16)  # faster than indexing
    return table[ids]


def _is_orientation_unclear(image: Pixels, image_orientation: int, label_orientation: int) -> bool:
    """Whether EXIF tags turn a pair differently, and the equal sizes do not prove that they fit all the same."""
    if image_orientation == label_orientation:
        return False
    is_square = image.shape[0] == image.shape[1]
    # Where only one of the two exchanges the sides, equal sizes mean that the label was made for the turned image.
    only_one_exchanges_sides = (image_orientation > MAX_MIRRORING) != (label_orientation > MAX_MIRRORING)
    return is_square or not only_one_exchanges_sides


def _size_advice(image_orientation: int, label_orientation: int) -> str:
    """Return why an image and a label map of these EXIF orientations may be of two sizes."""
    if image_orientation > 1 and label_orientation == 1:
        return "The image is shown as its EXIF tag says, turned; the label was made for the image without that tag."
    if image_orientation != label_orientation:
        return (
            "The label map has an EXIF tag of its own, which turns it. Save it without the tag, as its image is shown."
        )
    return "Both must have the same size."


def _size_text(pixels: npt.NDArray[np.generic]) -> str:
    """Return width and height, as image viewers give them."""
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _ranges(ids: npt.NDArray[np.intp]) -> str:
    """Return ascending numbers as ranges: "0-11, 255"."""
    runs = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _file_digest(path: Path) -> bytes:
    with readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _listing_digest(files: Iterable[FoundFile]) -> str:
    """Return a sha256 of names and sizes; run folders keep it, so that its form must stay."""
    text = "\0".join(f"{name}\0{size}" for name, size in files)
    return hashlib.sha256(os.fsencode(text)).hexdigest()
