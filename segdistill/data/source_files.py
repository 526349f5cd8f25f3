"""Which files a data set consists of, so that no output is written over one of them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from segdistill.data.base import DataSource, Split
from segdistill.data.folder import FolderSplit, ImageFolder
from segdistill.data.splits import ConcatSplit, PredictedSplit, SubsetSplit


def files_of(data: DataSource) -> Iterator[tuple[Path, Iterable[str]]]:
    """Yield folders and the names of the files in them that a data set reads, images and label maps."""
    for split in data.splits.values():
        yield from _files_of_split(split)


def _files_of_split(split: Split) -> Iterator[tuple[Path, Iterable[str]]]:
    if isinstance(split, ConcatSplit):
        for part in split.splits:
            yield from _files_of_split(part)
    elif isinstance(split, SubsetSplit | PredictedSplit):
        yield from _files_of_split(split.split)
    elif isinstance(split, FolderSplit):
        yield split.root, split.names
        yield split.root, split.labels
    elif isinstance(split, ImageFolder):
        yield split.root, split.names
