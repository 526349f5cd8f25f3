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


def image_files(split: Split) -> list[tuple[Path, str]]:
    """Return folder and name of each image of a split, in its order; none where they are rendered."""
    if isinstance(split, ConcatSplit):
        return [file for part in split.splits for file in image_files(part)]
    if isinstance(split, PredictedSplit):
        return image_files(split.split)
    if isinstance(split, SubsetSplit):
        files = image_files(split.split)
        return [files[index] for index in split.indices] if files else []
    if isinstance(split, FolderSplit | ImageFolder):
        return [(split.root, name) for name in split.names]
    return []


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
