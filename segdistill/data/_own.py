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

Further keys are `palette`, a list of colours for those who give no tables, and `ignore`, a list of the ids that count
nowhere, which is [255] unless said otherwise. A class without a pixel in the training split is taken for a mistake,
unless it is in the list `absent`. For label maps in colours, `[colors]` with entries such as
"128,64,128" = "ground" takes the place of `[ids]`. A file from Windows may begin with a byte order mark, and its paths
may have backslashes.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from segdistill.config import Strict, components, read_toml, validated
from segdistill.data._base import SPLITS, DataSource, Pixels, StoredLabel
from segdistill.data._folder import Files, FolderSplit, files_in, id_table, paired
from segdistill.data._image import decode_colors
from segdistill.data.voc import colors
from segdistill.errors import DataError, UsageError, nearest
from segdistill.types import IGNORE, MOST_CLASSES

ID_ADVICE = 'Others belong under [ids], with a class or "ignore", or in the list `ignore`.'
MAX_BYTES = 1 << 23
"""Enough for lists of fifty thousand pairs."""
NOTHING = "ignore"
"""What `[ids]` and `[colors]` say of pixels that count nowhere."""
MOST_IN_LIST = 1 << 16
"""Classes, colors or ids: of a longer list no more is looked at than that it is one."""
MOST = 10
"""Colours, files or mistakes in a message."""

Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]
Id = Annotated[int, Field(ge=0, le=65535)]
Paths = str | tuple[str, ...]
"""A folder, or files."""


class _Class(Strict):
    name: str
    color: Color | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and (unknown := [key for key in value if key not in cls.model_fields]):
            raise ValueError(f"unknown key {unknown[0]!r}. {nearest(unknown[0], cls.model_fields)}")
        return {"name": value} if isinstance(value, str) else value


class _Pairs(Strict):
    images: Paths
    labels: Paths

    @field_validator("images", "labels", mode="before")
    @classmethod
    def _folder_or_files(cls, value: Any) -> Any:
        items = value if isinstance(value, list) else [value]
        if not items or not all(isinstance(item, str) and item and item.isprintable() for item in items):
            raise ValueError("expected a folder, or a list of files")
        paths = [str(Path(os.path.expanduser(item.replace("\\", "/")))) for item in items]
        return paths if isinstance(value, list) else paths[0]


class _DataFile(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
    classes: tuple[_Class, ...]
    palette: tuple[Color, ...] | None = None
    ignore: tuple[Id, ...] | None = None
    absent: tuple[str, ...] = ()
    train: _Pairs | None = None
    val: _Pairs | None = None
    test: _Pairs | None = None
    ids: dict[Id, str] | None = None
    colors: dict[Color, str] | None = None

    @field_validator("classes", "palette", "ignore", mode="before")
    @classmethod
    def _not_long(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) > MOST_IN_LIST:
            raise ValueError(f"there are {len(value)}, expected at most {MOST_IN_LIST}")
        return value

    @field_validator("colors", mode="before")
    @classmethod
    def _as_numbers(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        if wrong := [key for key in table if not re.fullmatch(r"\d+, *\d+, *\d+", key)]:
            raise ValueError(f'{wrong[0]!r} is no colour. Write red, green and blue as in "128,64,128".')
        return _once((tuple(map(int, key.split(","))), name) for key, name in table.items())

    @field_validator("ids", mode="before")
    @classmethod
    def _as_ids(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        return _once((int(key) if key.isdecimal() else key, name) for key, name in table.items())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.classes)

    @property
    def by_id(self) -> dict[int, str]:
        return dict(enumerate(self.names)) if self.ids is None else self.ids

    @property
    def pairs(self) -> dict[str, _Pairs]:
        return {name: pairs for name in SPLITS if (pairs := getattr(self, name)) is not None}


def _once(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return them as a table, unless two say different things of the same id or colour, written in two ways."""
    table: dict[Any, Any] = {}
    for key, name in pairs:
        if table.setdefault(key, name) != name:
            raise ValueError(f"{key} is both {table[key]!r} and {name!r}")
    return table


def _mistakes(own: _DataFile) -> Iterator[str]:
    """Yield what is wrong though every value alone is right."""
    if own.name in components("data"):
        yield f"name: {own.name!r} is a built-in data set. Choose another."
    if not 2 <= len(own.names) <= MOST_CLASSES:
        yield f"classes: there are {len(own.names)}, expected 2 to {MOST_CLASSES}"
        return
    folded = [name.casefold() for name in own.names]
    for i, name in enumerate(own.names):
        if not name or not name.isprintable() or name != name.strip():
            yield f"classes: {name!r} is no name"
        elif folded[i] == NOTHING:
            yield f"classes: {name!r} is what [ids] and [colors] call pixels that count nowhere"
        elif folded[i] in folded[:i]:
            yield f"classes: {name!r} is there twice"
    owners: dict[Color, str] = {}
    for entry in own.classes:
        if entry.color is not None and (other := owners.setdefault(entry.color, entry.name)) != entry.name:
            yield f"classes: {other!r} and {entry.name!r} have the same colour {list(entry.color)}"
    if own.palette is not None and len(own.palette) != len(own.names):
        yield f"palette: {len(own.palette)} colours for {len(own.names)} classes"
    if own.palette is not None and any(entry.color for entry in own.classes):
        yield "palette: the classes have colours of their own"
    for name in own.absent:
        if name not in own.names:
            yield f"absent: {name!r} is no class. {nearest(name, own.names)}"
    if not own.pairs:
        yield "no images: write tables [train] and [val], each with images and labels"
    for split, pairs in own.pairs.items():
        if isinstance(pairs.images, str) != isinstance(pairs.labels, str):
            yield f"{split}: images and labels must both be folders, or both lists of files"
        elif pairs.images == pairs.labels:
            yield (
                f"{split}: images and labels are the same. Give each a folder of its own, or list the files: "
                'images = ["a.jpg"], labels = ["a.png"]'
            )
        elif not isinstance(pairs.images, str) and len(pairs.images) != len(pairs.labels):
            yield f"{split}: {len(pairs.images)} images and {len(pairs.labels)} labels"
    tables: dict[str, Mapping[Any, str]] = {"ids": own.by_id} if own.colors is None else {"colors": own.colors}
    known = {*own.names, NOTHING}
    for key, table in tables.items():
        unknown = [(value, name) for value, name in table.items() if name not in known]
        for number, (value, name) in enumerate(unknown):
            advice = nearest(name, known) if number < MOST else ""  # takes its time, and no more are shown
            yield f"{key}: {value} is {name!r}, which is no class. {advice}"
        used = {*table.values()}
        for name in own.names:
            if name not in used:
                yield f"{key}: none is {name!r}"
    if own.colors is not None and (own.ids is not None or own.ignore is not None):
        yield 'colors: label maps hold colours or ids, not both. What counts nowhere is "ignore" in [colors]'
    for i in own.ignore or () if own.colors is None else ():
        if (name := own.by_id.get(i, NOTHING)) != NOTHING:
            yield f"ignore: {i} is {name!r}"


@dataclass(frozen=True, eq=False)
class ColorMap:
    """Reads label maps that hold colours, as class indices and IGNORE."""

    codes: npt.NDArray[np.int32]
    """The known colours, 65536 R + 256 G + B, in ascending order."""
    classes: Pixels
    """Their classes, or IGNORE."""

    def __call__(self, path: Path) -> StoredLabel:
        """Read a label map; what is transparent counts nowhere, whatever color is stored beneath.

        Raises:
            DataError: as `read_image`; also for a colour that is not known.
        """
        pixels, stored = decode_colors(path)
        codes = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        places = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        known = self.codes[places] == codes
        if stored.transparent is not None:
            known |= stored.transparent
        unknown = codes[~known]
        if unknown.size:
            found, counts = np.unique(unknown, return_counts=True)
            listed = ", ".join(
                f"{found[i] >> 16},{found[i] >> 8 & 255},{found[i] & 255} ({counts[i]} px)"
                for i in np.argsort(-counts, kind="stable")[:MOST]
            )
            more = f" and {len(found) - MOST} more colours" if len(found) > MOST else ""
            raise DataError(
                f"{path} has colours that [colors] has not: {listed}{more}.",
                'Add them, as a class or as "ignore". Many that are nearly right come from JPEG or from resizing.',
            )
        return replace(stored, ids=self.classes[places])


def load(path: str) -> DataSource:
    """Read a data file and find the images it names.

    Raises:
        UsageError: if there is no such file, or it is not as described above, naming all mistakes at once.
        DataError: if images or label maps are missing or have no partners.
    """
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise UsageError(f"There is no data file {file}.", "It names the classes and the folders of your own images.")
    own = validated(_DataFile, read_toml(file, MAX_BYTES), str(file))
    if mistakes := list(_mistakes(own)):
        more = f"\n  and {len(mistakes) - MOST} more" if len(mistakes) > MOST else ""
        raise UsageError(f"Mistakes in {file}:\n  " + "\n  ".join(mistakes[:MOST]) + more)
    splits = {name: _split(file.parent, pairs, own) for name, pairs in own.pairs.items()}
    absent = tuple(f"{own.name} has no {name} split." for name in ("train", "val") if name not in splits)
    unsaid = own.ids is None and own.colors is None and own.ignore is None
    expected = frozenset(own.names) - frozenset(own.absent)
    return DataSource(own.name, own.names, _palette(own), splits, absent, ignores_unsaid=unsaid, expected=expected)


def _split(root: Path, pairs: _Pairs, own: _DataFile) -> FolderSplit:
    """Pair the files and bring what label maps hold to classes."""
    index = {name: i for i, name in enumerate(own.names)}
    images, labels = _files(root, pairs.images), _files(root, pairs.labels)
    if own.colors is None:
        ignored = (IGNORE,) if own.ignore is None else own.ignore
        table = dict.fromkeys(ignored, IGNORE) | {i: index.get(name, IGNORE) for i, name in own.by_id.items()}
        split = replace(paired(root, images, labels, id_table(table)), advice=ID_ADVICE)
    else:
        table = {r << 16 | g << 8 | b: index.get(name, IGNORE) for (r, g, b), name in sorted(own.colors.items())}
        decode = ColorMap(np.array([*table], np.int32), np.array([*table.values()], np.uint8))
        split = paired(root, images, labels, id_table({i: i for i in table.values()}), decode=decode)
    return replace(split, fingerprint=f"{split.fingerprint} {sorted(table.items())}")  # another map is other data


def _files(root: Path, paths: Paths) -> Files:
    if isinstance(paths, str):
        return files_in(root, paths)
    missing = [str(root / name) for name in paths if not (root / name).is_file()]
    if missing:
        more = f" and {len(missing) - MOST} more" if len(missing) > MOST else ""
        raise DataError(f"There is no {', '.join(missing[:MOST])}{more}.", f"Paths are relative to {root}.")
    return Files("the list", {f"{i:06}": (name, (root / name).stat().st_size) for i, name in enumerate(paths)})


def _palette(own: _DataFile) -> tuple[Color, ...]:
    """Return the colours that the file gives the classes, or else those of its label maps, or else VOC's."""
    mapped = {name: color for color, name in reversed((own.colors or {}).items())}
    given = own.palette or [entry.color or mapped.get(entry.name) for entry in own.classes]
    others = colors(range(1, len(given) + 1))  # its first is black, which stands for what counts nowhere
    return tuple(color or other for color, other in zip(given, others, strict=True))
