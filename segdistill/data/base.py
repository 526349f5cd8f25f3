"""What a data set is: samples, the splits that read them, and the source that names the splits."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from segdistill.errors import DataError, UsageError, nearest

Pixels = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.uint8 | np.uint16]
IdTable = npt.NDArray[np.int16]
"""One entry per 16-bit id: the class, IGNORE, or -1 where a file must not have that id."""
SPLITS = ("train", "val", "test")
AUXILIARY = "auxiliary"
"""Name of the split whose images are mixed into the training ones."""
UNLABELED = 254
"""The label of every pixel of an image that has none, in a `Sample`; a `Batch` says so otherwise."""


class StoredImage(NamedTuple):
    """Properties of an image's file beside the pixels that are read of it."""

    orientation: int = 1
    """EXIF orientation, 1..8; 1 where the image is shown as it is stored."""
    extra_channel: bool = False
    """A channel was left out that is not opaque throughout: transparency, or a band such as near infrared."""
    deep: bool = False
    """16 bits per channel, of which the upper 8 are kept."""
    more_pages: bool = False
    """The file has further pages or frames, of which only the first is read."""


@dataclass(frozen=True, eq=False)
class StoredLabel:
    """A label map as its file holds it."""

    ids: Ids
    """(H, W); class indices and IGNORE where the file holds colors that a data.toml names."""
    colored: bool = False
    """The file holds colors that a data.toml names."""
    transparent: npt.NDArray[np.bool_] | None = None
    """(H, W): pixels that a viewer does not show, and that count nowhere; None where there are none."""
    palette: Pixels | None = None
    """(N, 3) RGB of the ids, where they are indices of a palette."""
    transparent_ids: tuple[int, ...] = ()
    """Ids that the file as a whole draws transparent; they are read as any other."""
    orientation: int = 1
    """EXIF orientation, 1..8; 1 where the label map is read as it is stored."""
    more_pages: bool = False
    """The file has further pages or frames, of which only the first is read."""
    classes: IdTable | None = None
    """Class of each id, or IGNORE; None as long as the data set has not said it."""
    name: str = ""
    """File, relative to the data set's folder; empty as long as the data set has not said it."""


@dataclass(frozen=True, eq=False)
class Sample:
    """An image as it is stored, with its label."""

    image: Pixels
    """(H, W, 3) RGB."""
    label: Pixels
    """(H, W) class indices, or IGNORE; UNLABELED throughout where there is no label."""
    name: str
    """The image's file, relative to the data set's folder."""
    orientation_unclear: bool = False
    """EXIF tags turn image and label map differently, and the sizes do not tell whether one was made for the other."""
    stored_image: StoredImage = field(default_factory=StoredImage)
    stored_label: StoredLabel | None = None
    """None where there is no label, or no file."""


class Split(Protocol):
    """Images in a fixed order, read one at a time; workers get a copy of it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The samples' names."""

    @property
    def fingerprint(self) -> str:
        """Identifies the samples without reading them: it changes when their files' names or sizes do."""

    def read(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            DataError: if it cannot be used, with the file's name and what was found.
        """

    def digest(self, index: int) -> bytes:
        """Return a digest of what is stored as one sample's image: unlike its pixels, the same under any decoder.

        Raises:
            DataError: if it cannot be read.
        """


@dataclass(frozen=True)
class DataSource:
    """A data set whose files were found and not read yet: its classes and its splits.

    `segdistill.data.verified` reads the files; what it returns is known by their content.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    """RGB, one per class."""
    splits: Mapping[str, Split]
    warnings: tuple[str, ...] = ()
    """Sentences about what is unusual in the files that were found."""
    generated: bool = False
    """The images are rendered, not read: there are no files that could be damaged."""
    ignores_by_default: bool = False
    """Pixels of the id 255 count nowhere, and the data.toml does not say so: it is what is usual."""
    expected: frozenset[str] = frozenset()
    """Classes without which the training split is a mistake; none of public data, small parts of which are common."""

    unlabeled: frozenset[str] = frozenset()
    """Names of the splits for training and validation whose images have no labels: a teacher says what is in them."""

    without_labels: Split | None = None
    """Images beside the training ones that nobody labeled, which are mixed in as unlabeled; None without any."""

    @property
    def listing_fingerprint(self) -> str:
        """A sha256 of the names and sizes of all files: the same wherever they lie, and whatever is in them."""
        return self.fingerprint_with({})

    def fingerprint_with(self, contents: Mapping[str, str]) -> str:
        """Return a sha256 of name, classes and splits, each split with the digest of its content where there is one.

        Run folders keep it, so that the order and the form of what is hashed here must stay as they are.
        """
        parts = {name: [split.fingerprint, contents.get(name)] for name, split in self.splits.items()}
        return hashlib.sha256(json.dumps([self.name, self.classes, parts]).encode()).hexdigest()

    def _share_advice(self, split: str) -> str:
        if split != "val" or "train" not in self.splits:
            return ""
        return " In a data.toml, [val] with share = 0.2 takes a fifth of the training pairs."

    def split(self, name: str) -> Split:
        """Return a split by its name.

        Raises:
            UsageError: if no data set has such a split.
            DataError: if this one does not have it.
        """
        known_names = (*SPLITS, *self.splits)
        if name not in known_names:
            raise UsageError(f"Unknown split {name!r}.", nearest(name, known_names))
        if name not in self.splits:
            present = ", ".join(self.splits) or "none"
            raise DataError(
                f"Data set {self.name} has no {name} split.", f"Its splits: {present}.{self._share_advice(name)}"
            )
        return self.splits[name]
