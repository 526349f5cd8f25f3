"""Splits that are made of other splits: several in a row, and some samples of one."""

import hashlib
import zlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from segdistill.data.base import UNLABELED, Pixels, Sample, Split


@dataclass(frozen=True)
class ConcatSplit:
    """Several splits, one after the other."""

    splits: tuple[Split, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all samples."""
        # Cached, as each batch asks for the number of names, and there may be a hundred thousand of them.
        return tuple(name for split in self.splits for name in split.names)

    @property
    def fingerprint(self) -> str:
        """Changes when one of the splits does."""
        return "+".join(split.fingerprint for split in self.splits)

    def read(self, index: int) -> Sample:
        """Read one sample; see `Split`."""
        split, index_in_split = self._locate(index)
        return split.read(index_in_split)

    def digest(self, index: int) -> bytes:
        """Identify one image; see `Split`."""
        split, index_in_split = self._locate(index)
        return split.digest(index_in_split)

    def _locate(self, index: int) -> tuple[Split, int]:
        """Return the split that has a sample, and the sample's index in it."""
        remaining = index
        for split in self.splits:
            if remaining < len(split.names):
                return split, remaining
            remaining -= len(split.names)
        raise IndexError(index)


@dataclass(frozen=True)
class SubsetSplit:
    """Some of a split's samples, with their labels or without."""

    split: Split
    indices: tuple[int, ...]
    labels: bool
    """Whether samples keep their labels; without, they count as images that nobody labeled."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of these samples."""
        all_names = self.split.names
        return tuple(all_names[index] for index in self.indices)

    @property
    def fingerprint(self) -> str:
        """Changes when the split or the choice does."""
        return hashlib.sha256(f"{self.split.fingerprint} {self.indices} {self.labels}".encode()).hexdigest()

    def read(self, index: int) -> Sample:
        """Read one sample; see `Split`."""
        sample = self.split.read(self.indices[index])
        if self.labels:
            return sample
        unlabeled = np.full_like(sample.label, UNLABELED)
        # What was found in the label map is dropped too: a warning about a file that is not used would mislead.
        return replace(sample, label=unlabeled, orientation_unclear=False, stored_label=None)

    def digest(self, index: int) -> bytes:
        """Identify one image; see `Split`."""
        return self.split.digest(self.indices[index])


@dataclass(frozen=True)
class PredictedSplit:
    """A split's images with label maps that a network predicted for them, which are kept in memory, compressed."""

    split: Split
    labels: tuple[bytes, ...]
    """Label map of each image, as `compressed` returned it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the images."""
        return self.split.names

    @property
    def fingerprint(self) -> str:
        """That of the images: what is predicted of them follows from the network."""
        return self.split.fingerprint

    def read(self, index: int) -> Sample:
        """Read one sample; see `Split`."""
        sample = self.split.read(index)
        label = np.frombuffer(zlib.decompress(self.labels[index]), np.uint8).reshape(sample.label.shape)
        return replace(sample, label=label.copy(), stored_label=None)

    def digest(self, index: int) -> bytes:
        """Identify one image; see `Split`."""
        return self.split.digest(index)


def compressed(label: Pixels) -> bytes:
    """Return a label map (H, W) in as few bytes as take no time to read: one of a street has some ten thousand."""
    return zlib.compress(np.ascontiguousarray(label).tobytes(), level=1)
