"""Keys of a data.toml, and what each of them may be on its own; `mistakes` checks them together."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from segdistill.config.schema import Strict
from segdistill.data.base import SPLITS
from segdistill.data.file_names import STAR
from segdistill.errors import nearest

MAX_ENTRIES = 1 << 16
"""Classes, colors or ids: of a longer list no more is looked at than that it is one."""
ID_RANGE = r"(\d{1,9}) *[-–] *(\d{1,9})"
"""Keys of [ids] for several ids at once."""
COLOR_KEY = r"\d+, *\d+, *\d+"
"""Keys of [colors]: TOML has no lists for keys."""

Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]
Id = Annotated[int, Field(ge=0, le=65535)]
Pattern = Annotated[str, Field(max_length=200)]
Paths = str | tuple[str, ...]
"""A folder, or files."""


class ClassEntry(Strict):
    """A class: its name, or a table with name and color."""

    name: str
    """Name of the class."""
    color: Color | None = None
    """Red, green and blue in 0..255, to draw it in."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict):
            # Found here, since the checks that pydantic makes of a table in a list would not name the nearest key.
            unknown_keys = [key for key in value if key not in cls.model_fields]
            if unknown_keys:
                raise ValueError(f"unknown key {unknown_keys[0]!r}. {nearest(unknown_keys[0], cls.model_fields)}")
        return value


class PairsEntry(Strict):
    """The images and label maps of one split."""

    images: Paths | None = None
    """Folder of the images, or a list of files; relative to the data file. Where it has no images itself, all below it
    count, and so do those of its sub-folders whose label maps lie in the same sub-folders below `labels`."""
    labels: Paths | None = None
    """Folder of the label maps, paired with the images by the files' names without endings, or with them (a.jpg and
    a.jpg.png); or a list, in the same order. Names that only look the same, as in another letter case, are paired where
    no other file looks like that."""
    image_pattern: Pattern | None = None
    """Names of the images, such as `"*_leftImg8bit"`: what `*` stands for is shared with the label map. A pattern with
    folders, `"images/*"`, is compared with the end of the path."""
    label_pattern: Pattern | None = None
    """Names of the label maps, such as `"*_mask"`; then they may lie in the folder of the images."""
    list_file: Annotated[str | None, Field(alias="list")] = None
    """File with the names of the images that count, one per line, with or without folders and endings; a label map may
    stand behind each, after a blank, a comma or a tab. With those, `images` and `labels` may be left out."""
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """In [val] and [test], alone: share of the pairs of [train] that are taken from there. A hash of its name decides
    on each image, so that further images move none of the others."""
    unlabeled: Literal["refuse", "leave-out", "use"] = "refuse"
    """What becomes of images without a label map: `"leave-out"`, or, in [train], `"use"` as unlabeled images."""

    @property
    def has_pattern(self) -> bool:
        """Whether a pattern tells images from label maps."""
        return self.image_pattern is not None or self.label_pattern is not None

    @field_validator("images", "labels", mode="before")
    @classmethod
    def _folder_or_files(cls, value: Any) -> Any:
        items = value if isinstance(value, list) else [value]
        if not items or not all(map(_is_path, items)):
            raise ValueError("expected a folder, or a list of files")
        paths = [_local_path(item) for item in items]
        return paths if isinstance(value, list) else paths[0]

    @field_validator("list_file", mode="before")
    @classmethod
    def _file(cls, value: Any) -> Any:
        if not _is_path(value):
            raise ValueError("expected a file with names")
        return _local_path(value)

    @field_validator("image_pattern", "label_pattern", mode="before")
    @classmethod
    def _with_star(cls, value: Any) -> Any:
        if not _is_path(value) or STAR not in value:
            raise ValueError('expected a name with * for what image and label map share, such as "*_mask"')
        return value.replace("\\", "/")


class DataFile(Strict):
    """A data.toml."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
    """Name of the data set, for folders and tables: letters, digits, - and _."""
    classes: tuple[ClassEntry, ...]
    """Names of 2 to 250 classes, or a table for each; the order is that of the network's outputs."""
    palette: tuple[Color, ...] | None = None
    """One color per class to draw it in, for those who give no tables."""
    ignore: tuple[Id, ...] | None = None
    """Ids that count nowhere; `[255]` where the key is left out."""
    absent: tuple[str, ...] = ()
    """Classes that no training label has, on purpose; any other class without a training pixel stops a run."""
    train: PairsEntry | None = None
    """Images and label maps that are trained on."""
    val: PairsEntry | None = None
    """Images and label maps of validation, export's check and the scores that are reported."""
    test: PairsEntry | None = None
    """Images and label maps for `evaluate --split test`."""
    ids: dict[Id, str] | None = None
    """Class of each id in the label maps, `"ignore"` for none; 0, 1, 2, ... in the order of the classes where left out.
    Several ids may be one class, and `"128-255"` is a range."""
    colors: dict[Color, str] | None = None
    """Class of each color, `"128,64,128" = "road"`, for label maps in colors, in the place of `ids`."""

    @field_validator("classes", "palette", "ignore", mode="before")
    @classmethod
    def _of_bounded_length(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) > MAX_ENTRIES:
            raise ValueError(f"there are {len(value)}, expected at most {MAX_ENTRIES}")
        return value

    @field_validator("colors", mode="before")
    @classmethod
    def _colors_as_numbers(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        for key in table:
            if not re.fullmatch(COLOR_KEY, key):
                raise ValueError(f'{key!r} is no color. Write red, green and blue as in "128,64,128".')
        return _without_contradiction((tuple(map(int, key.split(","))), name) for key, name in table.items())

    @field_validator("ids", mode="before")
    @classmethod
    def _ids_as_numbers(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        return _without_contradiction((id_, name) for key, name in table.items() for id_ in _ids_of(key))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in their order."""
        return tuple(entry.name for entry in self.classes)

    @property
    def names_by_id(self) -> dict[int, str]:
        """Class of each id as [ids] says, else the classes in their order."""
        if self.ids is None:
            return dict(enumerate(self.class_names))
        return self.ids

    @property
    def pairs(self) -> dict[str, PairsEntry]:
        """Images and label maps of each split that the file has."""
        entries = {split: getattr(self, split) for split in SPLITS}
        return {split: entry for split, entry in entries.items() if entry is not None}


def _ids_of(key: str) -> Iterable[Any]:
    """Return the ids that a key of [ids] means: one, or a range such as "128-255"."""
    if key.isdecimal():
        return [int(key)]
    match = re.fullmatch(ID_RANGE, key)
    if match is None:
        raise ValueError(f'{key!r} is no id. Write a whole number, or a range as in "128-255".')
    first, last = map(int, match.groups())
    if not first <= last < MAX_ENTRIES:
        raise ValueError(f"{key!r} is no range of ids: expected the smaller id first, and at most {MAX_ENTRIES - 1}")
    return range(first, last + 1)


def _local_path(text: str) -> str:
    return str(Path(os.path.expanduser(text.replace("\\", "/"))))


def _is_path(item: Any) -> bool:
    return isinstance(item, str) and item != "" and item.isprintable()


def _without_contradiction(entries: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return entries as a table, unless two say different things of the same id or color, written in two ways."""
    table: dict[Any, Any] = {}
    for key, name in entries:
        if table.setdefault(key, name) != name:
            raise ValueError(f"{key} is both {table[key]!r} and {name!r}")
    return table
