"""What the scan of a data set finds that gives an id or a pixel another meaning in one file than in another.

Each finding becomes one warning: what was found, in how many files, which ones, the cause, and the way out. All of it
comes from headers and from arrays that were decoded anyway.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segdistill.data._base import Pixels, Sample, StoredLabel
from segdistill.types import IGNORE

MAX_LISTED = 10
"""Names in a message."""
BLANK = 4
"""Fewer 8-bit values than this hold no picture: what was scaled to 0..1 and saved as 8 bits has two."""
DARK = 64
"""Below this 8-bit value lie all pixels of a 16-bit image that uses 14 bits or fewer, as many cameras do."""
PROBES = 16
"""Rows and columns of an image in which its colors are compared with its classes."""


class Finding(Enum):
    """What may be found in one pair of files: the warning about all files in which it was."""

    TURNED = (
        "Images that an EXIF tag turns or mirrors ({count}), whose labels must have been made for them as they are "
        "shown: {names}."
    )
    LABEL_TURNED = (
        "Label maps that an EXIF tag turns or mirrors otherwise than their images ({count}): {names}. They are read as "
        "the tag says. Where they fit their images without it, save them without the tag."
    )
    MORE_PAGES = (
        "Files with several pages or frames, of which only the first is read ({count}): {names}. Classes on pages of "
        "their own must be merged into one label map."
    )
    BLANK = (
        "Images of a single color, or nearly ({count}): {names}. Values from 0 to 1 that are saved with 8 bits look "
        "like this: multiply them by 255 before."
    )
    EXTRA_CHANNEL = (
        "Images with a channel beyond red, green and blue, which is left out ({count}): {names}. It holds "
        "transparency, or a band such as near infrared; networks here see three channels. Transparent pixels need a "
        "color, or a label that is ignored."
    )
    DARK = (
        "Images of 16 bits that use a quarter of their range or less ({count}): {names}. Their upper 8 bits are read, "
        "so they are nearly black. Save them with 8 bits, or multiply values of 12 bits by 16, of 10 bits by 64."
    )
    OWN_LABEL = (
        "Images with one color per class, as label maps have ({count}): {names}. Give the folder of the photos as "
        "`images`."
    )
    VOID = "Images without a labelled pixel ({count}): {names}."
    TRANSPARENT = (
        "Label maps with transparent pixels, which count nowhere ({count}): {names}. Where these pixels belong to a "
        "class, save the label maps without alpha channel."
    )
    TRANSPARENT_ID = (
        "Label maps that draw a class transparent ({count}): {names}. Its pixels are read as that class. Where they "
        'are not annotated, map the id to "ignore" under [ids] of a data.toml.'
    )

    def sentence(self, names: Sequence[str]) -> str:
        """Return the warning about the files in which this was found."""
        return self.value.format(count=len(names), names=listed(names))


class StoredIds(NamedTuple):
    """Ids that a label map holds, without its transparent pixels."""

    name: str
    """File of the label map."""
    used: npt.NDArray[np.intp]
    """(N,) ids, ascending."""
    pixels: npt.NDArray[np.int64]
    """(N,) how many pixels have each."""
    classes: npt.NDArray[np.int16]
    """(N,) their classes, or IGNORE."""
    colors: npt.NDArray[np.int16] | None
    """(N, 3) RGB in the file's palette, -1 beyond its end; None where it has none."""


def stored_ids(label: StoredLabel | None) -> StoredIds | None:
    """Count the ids of a label map; None where the file holds colors, or there is none."""
    if label is None or label.colored or label.classes is None:
        return None
    shown = None if label.transparent is None else (~label.transparent).astype(np.uint8)
    counts = histogram(label.ids, shown)
    used = np.flatnonzero(counts)
    colors = None
    if label.palette is not None:
        colors = np.full((256, 3), -1, np.int16)
        colors[: len(label.palette)] = label.palette[:256]
        colors = colors[used]
    return StoredIds(label.name, used, counts[used], label.classes[used], colors)


def histogram(ids: npt.NDArray[np.uint8 | np.uint16], where: Pixels | None = None) -> npt.NDArray[np.int64]:
    """Count each number of an array (H, W), where a mask is not 0.

    In float32, which is exact up to 16 million pixels of one number; np.bincount would copy the array as int64.
    """
    size = 256 if ids.dtype == np.uint8 else 1 << 16
    counts = cv2.calcHist([np.ascontiguousarray(ids)], [0], where, [size], [0, size])
    return counts.ravel().astype(np.int64)


def findings(sample: Sample, ids: StoredIds | None) -> Iterator[tuple[Finding, str]]:
    """Yield what is found in one pair of files, with the name of the one that it is found in."""
    image, label = sample.stored_image, sample.stored_label
    if sample.doubtful and (label is None or label.orientation == 1):
        yield Finding.TURNED, sample.name
    if sample.doubtful and label is not None and label.orientation > 1:
        yield Finding.LABEL_TURNED, label.name
    if image.more_pages:
        yield Finding.MORE_PAGES, sample.name
    if label is not None and label.more_pages:
        yield Finding.MORE_PAGES, label.name
    if image.extra_channel:
        yield Finding.EXTRA_CHANNEL, sample.name
    brightest, darkest = int(sample.image.max(initial=0)), int(sample.image.min(initial=255))
    if image.deep and brightest < DARK:
        yield Finding.DARK, sample.name
    elif label is not None and _is_colored_like(sample.image, sample.label):
        yield Finding.OWN_LABEL, sample.name
    elif brightest - darkest < BLANK:
        yield Finding.BLANK, sample.name
    if label is None:
        return
    if label.transparent is not None:
        yield Finding.TRANSPARENT, label.name
    if ids is not None and label.transparent_ids:
        shown_as_nothing = np.isin(ids.used, label.transparent_ids) & (ids.classes != IGNORE)
        if shown_as_nothing.any():
            yield Finding.TRANSPARENT_ID, label.name


def _is_colored_like(image: Pixels, label: Pixels) -> bool:
    """Whether an image has one color for each class and for void, and no two have the same: it is a label map."""
    rows, columns = (max(1, side // PROBES) for side in label.shape)
    colors = image[::rows, ::columns].reshape(-1, 3).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    classes = label[::rows, ::columns].ravel()
    different = len(np.unique(classes))
    if different < 2 or len(np.unique(colors)) != different:  # most photos end here
        return False
    return len(np.unique(colors << 8 | classes)) == different


@dataclass
class Consistency:
    """What label maps say of their ids, file beside file."""

    colors: npt.NDArray[np.int16] = field(default_factory=lambda: np.full((256, 3), -1, np.int16))
    """The color that the first palette with an id gives it, or -1."""
    sources: dict[int, str] = field(default_factory=dict)
    """The file of that palette."""
    recolored: list[str] = field(default_factory=list)
    """Files whose palette gives an id another color."""
    example: str = ""
    void_only: list[str] = field(default_factory=list)
    """Files that hold 0 and an ignored 255 alone."""
    class_only: list[str] = field(default_factory=list)
    """Files that hold classes beside 0, and no ignored 255."""
    mixed: bool = False
    """Whether a file holds both."""
    indexed: set[int] = field(default_factory=set)
    """Ids of classes, beside 0, that are indices of a palette."""
    grey: dict[int, str] = field(default_factory=dict)
    """Those that are grey values, each with the first file that holds it."""

    def add(self, ids: StoredIds) -> None:
        """Take a label map into account."""
        name = ids.name
        of_classes = ids.used[(ids.used != 0) & (ids.classes != IGNORE)].tolist()
        if ids.colors is None:
            self.grey = dict.fromkeys(of_classes, name) | self.grey
        else:
            self.indexed.update(of_classes)
        void = bool((ids.classes[ids.used == 255] == IGNORE).any())
        classes = bool(of_classes)
        self.mixed |= void and classes
        if void and ids.used.tolist() == [0, 255]:
            self.void_only.append(name)
        if classes and not void:
            self.class_only.append(name)
        if ids.colors is not None:
            self._compare_colors(name, ids.used[ids.classes != IGNORE], ids.colors[ids.classes != IGNORE])

    def _compare_colors(self, name: str, used: npt.NDArray[np.intp], colors: npt.NDArray[np.int16]) -> None:
        before = self.colors[used]
        other = (before >= 0).all(1) & (before != colors).any(1)
        if other.any():
            self.recolored.append(name)
            if not self.example:
                first = int(np.flatnonzero(other)[0])
                was, now = (",".join(map(str, color.tolist())) for color in (before[first], colors[first]))
                self.example = f"id {used[first]} is {was} in {self.sources[int(used[first])]} and {now} in {name}"
        for i in np.flatnonzero((before < 0).any(1)):
            self.sources[int(used[i])] = name
            self.colors[used[i]] = colors[i]

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each way in which label maps disagree."""
        if self.void_only and self.class_only and not self.mixed:
            yield (
                f"Label maps that hold the ids 0 and 255 alone ({len(self.void_only)}): {listed(self.void_only)}. "
                f"Others ({len(self.class_only)}, {self.class_only[0]} the first) hold a class beside 0 and no 255, "
                "and none holds both. 255 means ignore here; where it is a class drawn in white, save all label maps "
                "with the same ids."
            )
        if self.recolored:
            yield (
                f"Label maps whose palette gives an id another color than others do ({len(self.recolored)}): "
                f"{listed(self.recolored)}. For example, {self.example}. Ids are read, colors are not: if the colors "
                "are right, name them under [colors] of a data.toml."
            )
        if self.grey and self.indexed and not self.grey.keys() & self.indexed:
            found, file = min(self.grey.items())
            yield (
                f"Label maps in grey and label maps with a palette that share no id beside 0: {found} is in {file}, "
                f"for example, and {min(self.indexed)} in others. Indices of a palette that were saved as grey became "
                "the brightness of their colors: save all label maps with the same ids."
            )


@dataclass
class Duplicates:
    """Images that are there more than once; one digest each, whatever their number."""

    owners: dict[bytes, tuple[str, str, bytes]] = field(default_factory=dict)
    """From an image's digest to the split, name and label digest of its first."""
    relabeled: list[str] = field(default_factory=list)
    """Pairs within a split whose labels differ."""

    def add(self, split: str, name: str, image: bytes, label: bytes) -> tuple[str, str]:
        """Take an image into account; return split and name of the first that is the same, if only itself."""
        owner, twin, other = self.owners.setdefault(image, (split, name, label))
        if owner == split and other != label:
            self.relabeled.append(f"{twin} = {name}")
        return owner, twin

    def warnings(self) -> Iterator[str]:
        """Yield a sentence about images with two labels."""
        if self.relabeled:
            yield (
                f"Images that are twice in a split, with different labels ({len(self.relabeled)}): "
                f"{listed(self.relabeled)}. Remove the one whose label is wrong."
            )


@dataclass
class IdCounts:
    """Pixels of each id in a split, by what it means."""

    classes: dict[int, int] = field(default_factory=dict)
    """From the ids that are there to their classes."""
    ignored: Counter[int] = field(default_factory=Counter)
    """Pixels of the ids that count nowhere."""

    def add(self, ids: StoredIds) -> None:
        """Count a label map's."""
        for id_, pixels, index in zip(ids.used.tolist(), ids.pixels.tolist(), ids.classes.tolist(), strict=True):
            if index == IGNORE:
                self.ignored[id_] += pixels
            else:
                self.classes[id_] = index


def listed(names: Sequence[str]) -> str:
    """Return names for a message, the first few of many."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
