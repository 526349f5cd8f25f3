"""What a training sees: images with labels, and those mixed in that have none or are auxiliary."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from segdistill.config import DataConfig
from segdistill.data._base import AUXILIARY, UNLABELED, DataSource, Joined, Sample, Split
from segdistill.data._folder import FolderSplit, ImageFolder, image_folder
from segdistill.errors import UsageError


@dataclass(frozen=True)
class Part:
    """Some of a split's samples, with their labels or without."""

    split: Split
    indices: tuple[int, ...]
    labels: bool

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of these samples."""
        names = self.split.names
        return tuple(names[index] for index in self.indices)

    @property
    def fingerprint(self) -> str:
        """Changes when the split or the choice does."""
        return hashlib.sha256(f"{self.split.fingerprint} {self.indices} {self.labels}".encode()).hexdigest()

    def read(self, index: int) -> Sample:
        """Read one sample; see `Split`."""
        sample = self.split.read(self.indices[index])
        if self.labels:
            return sample
        return replace(sample, label=np.full_like(sample.label, UNLABELED), doubtful=False, stored_label=None)

    def digest(self, index: int) -> bytes:
        """Identify one image; see `Split`."""
        return self.split.digest(self.indices[index])


def files_of(data: DataSource) -> Iterator[tuple[Path, Iterable[str]]]:
    """Yield folders and the names of the files in them that a data set reads, images and label maps."""
    waiting = [*data.splits.values()]
    while waiting:
        split = waiting.pop()
        if isinstance(split, Joined):
            waiting += split.splits
        elif isinstance(split, Part):
            waiting.append(split.split)
        elif isinstance(split, FolderSplit):
            yield split.root, split.names
            yield split.root, split.labels
        elif isinstance(split, ImageFolder):
            yield split.root, split.names


def mixture(data: DataSource, config: DataConfig, *, unlabeled: bool = True) -> DataSource:
    """Return the data as a training sees it: what is mixed in is the split `AUXILIARY`.

    Args:
        data: as it was loaded.
        config: which share of the training images keeps its labels, and what comes beside them.
        unlabeled: also mix in images without labels; a teacher's training has no use for them.

    Raises:
        UsageError: if no image keeps its label, or there is no such folder or split.
        DataError: if a folder has no image, or the data lacks a split for training or validation.
    """
    splits = {name: data.split(name) for name in ("train", "val")}
    expected = (
        data.expected if config.labeled == 1 else frozenset[str]()
    )  # a class that a part lacks may be in the rest
    extra: list[Split] = [data.split(name) for name in config.auxiliary]
    if not unlabeled:
        extra = [split for split in extra if not isinstance(split, ImageFolder)]
    if config.labeled < 1:
        train = data.split("train")
        images = range(len(train.names))
        kept = tuple(i for i in images if int((i + 1) * config.labeled) > int(i * config.labeled))  # evenly spread
        if not kept:
            raise UsageError(f"data.labeled={config.labeled} of {len(images)} images is none.", "Raise data.labeled.")
        splits["train"] = Part(train, kept, labels=True)
        rest = tuple(sorted(set(images) - set(kept)))
        extra += [Part(train, rest, labels=False)] if unlabeled else []
    extra += [image_folder(path) for path in config.unlabeled] if unlabeled else []
    if extra:
        splits[AUXILIARY] = Joined(tuple(extra))
    return replace(data, splits=splits, expected=expected)
