"""The user's own data: a TOML file that names the classes, the files of each split, and what label maps hold.

    name = "yard"
    classes = ["ground", "plant", "tool"]   # or tables: {name = "ground", color = [128, 64, 128]}

    [train]
    images = "images/train"                 # a folder, or a list of files; relative to this file
    labels = "labels/train"                 # folders are paired by the files' stems, lists by their order

    [val]
    images = "images/val"
    labels = "labels/val"

    [ids]                                   # only where the ids are not 0, 1, 2, ... in the order of the classes
    7 = "ground"
    21 = "plant"
    22 = "plant"
    26 = "tool"
    0 = "ignore"

Where names of images and label maps differ, `label_pattern = "*_mask"` says how; `list = "train.txt"` names the images
that count; `[val]` with `share = 0.2` takes a fifth of the training pairs; `[ids]` takes ranges, "128-255" = "tool".

Further keys are `palette`, a list of colors for those who give no tables, and `ignore`, a list of the ids that count
nowhere, which is [255] unless said otherwise. A class without a pixel in the training split is taken for a mistake,
unless it is in the list `absent`. For label maps in colors, `[colors]` with entries such as
"128,64,128" = "ground" takes the place of `[ids]`. A file from Windows may begin with a byte order mark, and its paths
may have backslashes.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from segdistill.config.checking import validated
from segdistill.config.toml import read_toml
from segdistill.data.base import DataSource, Split
from segdistill.data.datasets._toml.color_map import ColorMap, color_code
from segdistill.data.datasets._toml.mistakes import find_mistakes
from segdistill.data.datasets._toml.pairs import FoundPairs, find_pairs
from segdistill.data.datasets._toml.schema import Color, DataFile
from segdistill.data.datasets._toml.shares import draw_shares
from segdistill.data.datasets.voc import colors
from segdistill.data.folder import FolderSplit, id_table, split_of_files, split_without_labels
from segdistill.errors import UsageError
from segdistill.types import IGNORE
from segdistill.wording import MAX_LISTED, counted

MAX_BYTES = 1 << 23
"""Bytes of a data.toml: enough for lists of fifty thousand pairs."""
NO_SPLIT_ADVICE = {
    "train": "Only `evaluate` and `export` can use it.",
    "val": "Give it images of its own, or a share of the training pairs: [val] with share = 0.2",
}
"""What follows where a split is not there, or what to do."""
ID_ADVICE = 'Others belong under [ids], with a class or "ignore", or in the list `ignore`.'


def load(path: str) -> DataSource:
    """Read a data file and find the images it names.

    Raises:
        UsageError: if there is no such file, or it is not as described above, naming all mistakes at once.
        DataError: if images or label maps are missing or have no partners.
    """
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise UsageError(f"Data file not found: {file}.", "It names the classes and the folders of your own images.")
    data_file = validated(DataFile, read_toml(file, MAX_BYTES), str(file))
    mistakes = list(find_mistakes(data_file))
    if mistakes:
        raise _mistakes_error(file, mistakes)
    found = _find_splits(file.parent, data_file)
    splits = {name: _split(file.parent, pairs, data_file) for name, pairs in found.items()}
    missing_splits = [name for name in ("train", "val") if name not in splits]
    says_nothing_of_ids = data_file.ids is None and data_file.colors is None
    warnings = [f"{data_file.name} has no {name} split. {NO_SPLIT_ADVICE[name]}" for name in missing_splits]
    warnings += [note for pairs in found.values() for note in pairs.notes]
    return DataSource(
        data_file.name,
        data_file.class_names,
        _palette(data_file),
        splits=splits,
        warnings=tuple(warnings),
        ignores_by_default=says_nothing_of_ids and data_file.ignore is None,
        expected=frozenset(data_file.class_names) - frozenset(data_file.absent),
        without_labels=_without_labels(file.parent, data_file, found.get("train")),
    )


def _find_splits(root: Path, data_file: DataFile) -> dict[str, FoundPairs]:
    """Find the pairs of all splits, those that are a share of the training pairs among them."""
    shares = {name: entry.share for name, entry in data_file.pairs.items() if entry.share is not None}
    found = {name: find_pairs(root, name, data_file.pairs[name]) for name in data_file.pairs if name not in shares}
    if shares:
        found |= draw_shares(found["train"], shares)
    return {name: found[name] for name in data_file.pairs}


def _without_labels(root: Path, data_file: DataFile, train: FoundPairs | None) -> Split | None:
    """Return the training images without a label map, where the data file has them used."""
    if train is None or data_file.train is None or data_file.train.unlabeled != "use" or not train.unlabeled:
        return None
    return split_without_labels(root, train.unlabeled)


def _mistakes_error(file: Path, mistakes: list[str]) -> UsageError:
    lines = mistakes[:MAX_LISTED]
    if len(mistakes) > MAX_LISTED:
        lines.append(f"and {len(mistakes) - MAX_LISTED} more")
    text = "".join(f"\n  {line}" for line in lines)
    return UsageError(f"{counted(len(mistakes), 'mistake')} in {file}:{text}")


def _split(root: Path, pairs: FoundPairs, data_file: DataFile) -> FolderSplit:
    """Bring what label maps hold to classes."""
    if data_file.colors is None:
        table = _classes_by_id(data_file)
        split = split_of_files(root, pairs.images, pairs.labels, classes_by_id=id_table(table))
        split = replace(split, advice=ID_ADVICE, class_names=data_file.class_names)
    else:
        table = _classes_by_color(data_file, data_file.colors)
        classes = set(table.values())  # the color map gives classes already, so that each of them stands for itself
        split = split_of_files(
            root,
            pairs.images,
            pairs.labels,
            classes_by_id=id_table({index: index for index in classes}),
            decode=ColorMap.from_table(table),
        )
    # Another table is other data: a run must not go on with it.
    return replace(split, fingerprint=f"{split.fingerprint} {sorted(table.items())}")


def _classes_by_id(data_file: DataFile) -> dict[int, int]:
    """Return the class of each id, or IGNORE."""
    ignored = (IGNORE,) if data_file.ignore is None else data_file.ignore
    return dict.fromkeys(ignored, IGNORE) | _class_indices(data_file, data_file.names_by_id)


def _classes_by_color(data_file: DataFile, names_by_color: Mapping[Color, str]) -> dict[int, int]:
    """Return the class of each color's code, or IGNORE."""
    names_by_code = {color_code(color): name for color, name in names_by_color.items()}
    return _class_indices(data_file, names_by_code)


def _class_indices(data_file: DataFile, names: Mapping[int, str]) -> dict[int, int]:
    """Return the table with each name's class index, or IGNORE for "ignore"."""
    indices = {name: index for index, name in enumerate(data_file.class_names)}
    return {value: indices.get(name, IGNORE) for value, name in names.items()}


def _palette(data_file: DataFile) -> tuple[Color, ...]:
    """Return the colors that the file gives the classes, or else those of its label maps, or else VOC's."""
    if data_file.palette is not None:
        return data_file.palette
    # A class may have several colors in the label maps: the first one counts.
    label_colors: dict[str, Color] = {}
    for color, name in (data_file.colors or {}).items():
        label_colors.setdefault(name, color)
    others = colors(range(1, len(data_file.classes) + 1))  # its first is black, which stands for what counts nowhere
    palette = []
    for entry, other in zip(data_file.classes, others, strict=True):
        palette.append(entry.color or label_colors.get(entry.name) or other)
    return tuple(palette)
