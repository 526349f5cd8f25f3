"""Published data sets: where the folder of one is, whether it is laid out as its authors pack it, what is unusual."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from segdistill.data.base import SPLITS, DataSource, Split
from segdistill.data.listing import folder_contents
from segdistill.errors import DataError, UsageError
from segdistill.wording import counted

DATA_VARIABLE = "SEGDISTILL_DATA"
"""Environment variable with the folder in which data sets lie under their names."""


def data_root(name: str, path: str) -> Path:
    """Return the folder of a data set: `path`, or where that is empty $SEGDISTILL_DATA/NAME.

    Raises:
        UsageError: if there is no such folder.
    """
    advice = f"Write {name}:PATH, or set {DATA_VARIABLE} to the folder that holds {name}/."
    data_folder = os.environ.get(DATA_VARIABLE, "")
    if path:
        root = Path(os.path.expanduser(path))
    elif data_folder:
        root = Path(os.path.expanduser(data_folder)) / name
    else:
        raise UsageError(f"No path given for data set {name!r}.", advice)
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise UsageError(f"{name}: path not found: {root} {problem}.", advice)
    return root


def layout_root(name: str, path: str, *, known_by: Sequence[str], inside: Sequence[str] = (), expected: str) -> Path:
    """Return the folder that has the layout of a data set: the given one, or one in it that an archive unpacks to.

    Args:
        name: the data set's.
        path: as `data_root` takes it.
        known_by: folders, one of which is enough to know the layout by.
        inside: folders in `path` that are tried after `path` itself.
        expected: the layout in words, for the message.

    Raises:
        UsageError: if there is no folder at all; see `data_root`.
        DataError: if none is laid out like that.
    """
    root = data_root(name, path)
    for candidate in (root, *(root / folder for folder in inside)):
        if any((candidate / folder).is_dir() for folder in known_by):
            return candidate
    raise DataError(
        f"{root} does not have the layout of {name}: it has {folder_contents(root)}.",
        f"Expected {expected}. {other_layout_advice(root)}",
    )


def other_layout_advice(root: Path) -> str:
    """Return what to do with a folder that is laid out otherwise than the published data set."""
    return (
        f"Another layout is described by a data.toml: `segdistill data init {shlex.quote(str(root))} --out data.toml`"
    )


def data_source(
    name: str,
    *,
    classes: tuple[str, ...],
    palette: tuple[tuple[int, int, int], ...],
    splits: Mapping[str, Split],
    usual_counts: Mapping[str, Sequence[int]],
    warnings: Sequence[str] = (),
) -> DataSource:
    """Put a published data set together.

    Args:
        name: the data set's.
        classes: names, in the order of the indices.
        palette: RGB, one per class.
        splits: those that were found.
        usual_counts: numbers of images that a split of this data set may have; others are warnings, and so are the
            absent ones of train, val and test that are in here.
        warnings: sentences about what else is unusual.
    """
    usual_splits = [split_name for split_name in SPLITS if split_name in usual_counts]
    absent_splits = [split_name for split_name in usual_splits if split_name not in splits]
    sentences = [*warnings, *(f"{name} has no {split_name} split here." for split_name in absent_splits)]
    for split_name, split in splits.items():
        count = len(split.names)
        usual = usual_counts[split_name]
        if count not in usual:
            sentences.append(
                f"{name}'s {split_name} split has {counted(count, 'image')} here; it usually has "
                f"{' or '.join(map(str, usual))}."
            )
    return DataSource(name, classes, palette, splits, warnings=tuple(sentences))
