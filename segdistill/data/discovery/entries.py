"""How the pairs of a split are written: two folders where these say it all, else a list of the pairs."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from segdistill.data.datasets._toml.pairs import FoundPairs, find_pairs
from segdistill.data.datasets._toml.schema import PairsEntry
from segdistill.data.discovery.splits import LabeledImage
from segdistill.data.file_names import STAR, split_suffix
from segdistill.data.listing import FoundFile
from segdistill.data.name_differences import find_differences
from segdistill.errors import DataError

MAX_PATTERNS = 3
"""Pairs of patterns that are tried."""

Table = dict[str, str | float]
"""Keys of a split's table, and their values."""


@dataclass(frozen=True)
class SplitEntry:
    """The table of a split, and the list that it needs."""

    table: Table
    found: FoundPairs
    """Pairs that it means."""
    rows: tuple[tuple[str, str], ...] = ()
    """Lines of the list, an image and its label map; none where folders say it all."""


def write_entry(base: Path, pairs: Sequence[LabeledImage], list_file: str | None) -> SplitEntry:
    """Return the shortest table that means these pairs and no others.

    Args:
        base: folder that paths are relative to.
        pairs: those of the split.
        list_file: list that names them, as it is written; None without one.
    """
    wanted = {(pair.image, pair.label) for pair in pairs}
    for table in _candidates(pairs, list_file):
        found = _meant(base, table)
        if found is not None and _names(found) == wanted:
            return SplitEntry(table, found)
    rows = tuple((pair.image, pair.label) for pair in pairs)
    return SplitEntry({}, _found(base, rows), rows)


def _found(base: Path, rows: Sequence[tuple[str, str]]) -> FoundPairs:
    images = tuple(FoundFile(image, (base / image).stat().st_size) for image, _ in rows)
    labels = tuple(FoundFile(label, (base / label).stat().st_size) for _, label in rows)
    return FoundPairs(images, labels, tuple(image for image, _ in rows))


def _candidates(pairs: Sequence[LabeledImage], list_file: str | None) -> Iterator[Table]:
    """Yield tables with the folders that all pairs lie in, from the one with the fewest keys on."""
    images = _common_folder([pair.image for pair in pairs])
    labels = _common_folder([pair.label for pair in pairs])
    extra: Table = {} if list_file is None else {"list": list_file}
    for patterns in _patterns(pairs, images, labels):
        table: Table = {"images": images, "labels": labels, **patterns, **extra}
        yield table
        yield {**table, "unlabeled": "leave-out"}


def _patterns(pairs: Sequence[LabeledImage], images: str, labels: str) -> Iterator[Table]:
    if images != labels:
        yield {}
    image_names = {PurePosixPath(split_suffix(pair.image)[0]).name for pair in pairs}
    label_names = {PurePosixPath(split_suffix(pair.label)[0]).name for pair in pairs}
    if len(image_names) == 1 == len(label_names) and images == labels:  # 7/image.png and 7/mask.png
        yield _pattern_table(f"*/{image_names.pop()}", f"*/{label_names.pop()}")
    image_stems = [_stem_below(pair.image, images) for pair in pairs]
    label_stems = [_stem_below(pair.label, labels) for pair in pairs]
    found = [(one.image_pattern, one.label_pattern) for one in find_differences(image_stems, label_stems)]
    folders = _inner_folders(pairs, images, labels)
    image_suffix = _common_suffix(pair.image for pair in pairs)
    label_suffix = _common_suffix(pair.label for pair in pairs)
    for image_pattern, label_pattern in [(STAR, STAR), *found[:MAX_PATTERNS]]:
        names = [(image_pattern, label_pattern)]
        if folders is not None:
            names.append((f"{folders[0]}/{image_pattern}", f"{folders[1]}/{label_pattern}"))
        for image_name, label_name in names:
            if image_name != STAR or label_name != STAR:
                yield _pattern_table(image_name, label_name)
        if image_suffix and label_suffix:
            for image_name, label_name in names:
                yield _pattern_table(image_name + image_suffix, label_name + label_suffix)


def _pattern_table(image_pattern: str, label_pattern: str) -> Table:
    table: Table = {}
    if image_pattern != STAR:
        table["image_pattern"] = image_pattern
    if label_pattern != STAR:
        table["label_pattern"] = label_pattern
    return table


def _inner_folders(pairs: Sequence[LabeledImage], images: str, labels: str) -> tuple[str, str] | None:
    """Return the folders that every image, and every label map, lies in below others: rgb in scans/7/rgb/1.png."""
    image_folders = {PurePosixPath(pair.image).parent.name for pair in pairs}
    label_folders = {PurePosixPath(pair.label).parent.name for pair in pairs}
    if len(image_folders) != 1 or len(label_folders) != 1 or images != labels:
        return None
    (image_folder,), (label_folder,) = image_folders, label_folders
    return image_folder, label_folder


def _common_folder(paths: Iterable[str]) -> str:
    folders = [str(PurePosixPath(path).parent) for path in paths]
    return os.path.commonpath(folders) or "."


def _stem_below(path: str, folder: str) -> str:
    return split_suffix(os.path.relpath(path, folder).replace(os.sep, "/"))[0]


def _common_suffix(paths: Iterable[str]) -> str:
    suffixes = {split_suffix(path)[1] for path in paths}
    return suffixes.pop() if len(suffixes) == 1 else ""


def _meant(base: Path, table: Table) -> FoundPairs | None:
    """Return the pairs that a table means; None where it is none."""
    try:
        return find_pairs(base, "train", PairsEntry.model_validate(table))
    except (DataError, ValueError):
        return None


def _names(found: FoundPairs) -> set[tuple[str, str]]:
    return {
        (os.path.normpath(image.name), os.path.normpath(label.name))
        for image, label in zip(found.images, found.labels, strict=True)
    }
