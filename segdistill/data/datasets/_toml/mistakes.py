"""Mistakes of a data.toml whose values are all right on their own: one small check for each part of the file."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from segdistill.config.registry import components
from segdistill.data.datasets._toml.schema import Color, DataFile, PairsEntry, Paths
from segdistill.data.file_names import STAR, NamePattern
from segdistill.errors import nearest
from segdistill.types import MAX_CLASSES
from segdistill.wording import MAX_LISTED, counted

IGNORED_NAME = "ignore"
"""Name that `[ids]` and `[colors]` give pixels that count nowhere."""
MIN_CLASSES = 2


def find_mistakes(data_file: DataFile) -> Iterator[str]:
    """Yield a sentence for each mistake, beginning with the key."""
    if data_file.name in components("data.datasets"):
        yield f"name: {data_file.name!r} is a built-in data set. Choose another."
    count = len(data_file.classes)
    if not MIN_CLASSES <= count <= MAX_CLASSES:
        yield f"classes: found {count}, expected {MIN_CLASSES} to {MAX_CLASSES}{_one_class_advice(data_file)}"
        return  # of thousands of classes nothing else is worth the time
    for check in CHECKS:
        yield from check(data_file)


def _class_names(data_file: DataFile) -> Iterator[str]:
    seen = set()
    for name in data_file.class_names:
        folded = name.casefold()  # "Car" beside "car" is a slip, and some file systems could not tell them apart
        if not name or not name.isprintable() or name != name.strip():
            yield f"classes: name {name!r} is not printable, or has spaces around it"
        elif folded == IGNORED_NAME:
            yield f"classes: name {name!r} is reserved for pixels that count nowhere"
        elif folded in seen:
            yield f"classes: duplicate name {name!r}"
        seen.add(folded)


def _class_colors(data_file: DataFile) -> Iterator[str]:
    owners: dict[Color, str] = {}
    for entry in data_file.classes:
        if entry.color is None:
            continue
        owner = owners.setdefault(entry.color, entry.name)
        if owner != entry.name:
            yield f"classes: {owner!r} and {entry.name!r} have the same color {list(entry.color)}"
    if data_file.palette is None:
        return
    if len(data_file.palette) != len(data_file.classes):
        yield f"palette: {counted(len(data_file.palette), 'color')} for {len(data_file.classes)} classes"
    if owners:
        yield "palette: the classes have colors of their own"


def _absent_classes(data_file: DataFile) -> Iterator[str]:
    known_names = data_file.class_names
    unknown = [name for name in data_file.absent if name not in known_names]
    sentences = [(f"absent: unknown class {name!r}.", name) for name in unknown]
    yield from _with_nearest(sentences, known_names)


def _one_class_advice(data_file: DataFile) -> str:
    """Return what to do about a single class: what is none of it is a class, too."""
    if len(data_file.classes) != 1:
        return ""
    name = data_file.class_names[0]
    other = "background" if name.casefold() != "background" else "foreground"
    names = [other, name] if other == "background" else [name, other]
    return f". What is not {name!r} is a class, too: classes = {json.dumps(names, ensure_ascii=False)}"


def _splits(data_file: DataFile) -> Iterator[str]:
    if not data_file.pairs:
        yield "no images found: write tables [train] and [val], each with images and labels"
    shares = [entry.share for entry in data_file.pairs.values() if entry.share is not None]
    if shares and data_file.train is None:
        yield "share: there is no [train] to take it from"
    if sum(shares) >= 1:
        yield f"share: the shares are {sum(shares):g} together, which leaves nothing to train on"
    for split, pairs in data_file.pairs.items():
        for sentence in _pairs_mistakes(split, pairs):
            yield f"{split}: {sentence}"


def _pairs_mistakes(split: str, pairs: PairsEntry) -> Iterator[str]:
    """Yield what is wrong with the table of one split."""
    if pairs.share is not None:
        if split == "train":
            yield "share is for [val] and [test]: what they leave is trained on"
        elif len(pairs.model_fields_set) > 1:
            yield "share stands alone: its pairs are those of [train]"
        return
    if pairs.unlabeled == "use" and split != "train":
        yield 'unlabeled = "use" is for [train]. Here "leave-out" is possible'
    if pairs.list_file is None:
        yield from _missing_folders(pairs)
    if not _is_folder(pairs.images) or not _is_folder(pairs.labels):
        yield from _file_list_mistakes(pairs)
    elif pairs.images is not None and pairs.images == pairs.labels and not pairs.has_pattern:
        yield (
            'images and labels are the same. Say which files are labels, as in label_pattern = "*_mask", give each a '
            'folder of its own, or list the files: images = ["a.jpg"], labels = ["a.png"]'
        )
    if NamePattern(pairs.image_pattern or STAR).stars != NamePattern(pairs.label_pattern or STAR).stars:
        yield "image_pattern and label_pattern must have equally many *; one that is left out has one"


def _missing_folders(pairs: PairsEntry) -> Iterator[str]:
    missing = [key for key in ("images", "labels") if getattr(pairs, key) is None]
    if missing:
        yield f'{" and ".join(missing)} missing: a folder, or a list of files; or list = "FILE" with their names'


def _file_list_mistakes(pairs: PairsEntry) -> Iterator[str]:
    """Yield what is wrong where images or labels are a list of files."""
    images, labels = pairs.images, pairs.labels
    if pairs.list_file is not None:
        yield "list names files below folders: images and labels cannot be lists of files as well"
    elif images is None or labels is None:
        return
    elif isinstance(images, str) or isinstance(labels, str):
        yield "images and labels must both be folders, or both lists of files"
    elif images == labels:
        yield "images and labels are the same files"
    elif len(images) != len(labels):
        yield f"{counted(len(images), 'image')} and {counted(len(labels), 'label')}"
    elif pairs.has_pattern:
        yield "image_pattern and label_pattern are for folders"


def _is_folder(paths: Paths | None) -> bool:
    return paths is None or isinstance(paths, str)


def _ids(data_file: DataFile) -> Iterator[str]:
    if data_file.colors is None:
        yield from _table("ids", data_file.names_by_id, data_file.class_names)


def _ignored_ids(data_file: DataFile) -> Iterator[str]:
    if data_file.colors is not None or data_file.ignore is None:
        return
    for id_ in data_file.ignore:
        name = data_file.names_by_id.get(id_, IGNORED_NAME)
        if name != IGNORED_NAME:
            yield f"ignore: id {id_} has the class {name!r}"


def _colors(data_file: DataFile) -> Iterator[str]:
    if data_file.colors is None:
        return
    yield from _table("colors", data_file.colors, data_file.class_names)
    if data_file.ids is not None or data_file.ignore is not None:
        yield 'colors: label maps hold colors or ids, not both. What counts nowhere is "ignore" in [colors]'


CHECKS = (_class_names, _class_colors, _absent_classes, _splits, _ids, _colors, _ignored_ids)
"""Checks in the order of the message."""


def _table(key: str, table: Mapping[Any, str], class_names: tuple[str, ...]) -> Iterator[str]:
    """Yield what is wrong with a table from ids or colors to classes: unknown classes, and classes it never names."""
    known_names = {*class_names, IGNORED_NAME}
    unknown: dict[str, list[Any]] = {}  # a range of ids is many, and one mistake
    for value, name in table.items():
        if name not in known_names:
            unknown.setdefault(name, []).append(value)
    sentences = []
    for name, values in unknown.items():
        values_text = str(values[0]) if len(values) == 1 else f"{values[0]} and {len(values) - 1} more"
        sentences.append((f"{key}: {values_text} has the unknown class {name!r}.", name))
    yield from _with_nearest(sentences, known_names)
    named = set(table.values())
    for name in class_names:
        if name not in named:
            yield f"{key}: class {name!r} has no entry"


def _with_nearest(sentences: Iterable[tuple[str, str]], known_names: Iterable[str]) -> Iterator[str]:
    """Add the nearest known name to sentences about unknown ones, given with the name.

    Only to as many as a message shows: comparing names takes its time, and a file may have thousands of mistakes.
    """
    known_names = list(known_names)
    for number, (sentence, name) in enumerate(sentences):
        if number < MAX_LISTED:
            yield f"{sentence} {nearest(name, known_names)}"
        else:
            yield sentence
