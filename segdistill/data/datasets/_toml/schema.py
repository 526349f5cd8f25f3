"""Keys of a data.toml, and what each of them may be on its own; `mistakes` checks them together."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from segdistill.config.schema import Strict
from segdistill.data.base import SPLITS
from segdistill.errors import nearest

MAX_ENTRIES = 1 << 16
"""Classes, colors or ids: of a longer list no more is looked at than that it is one."""
COLOR_KEY = r"\d+, *\d+, *\d+"
"""Keys of [colors]: TOML has no lists for keys."""

Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]
Id = Annotated[int, Field(ge=0, le=65535)]
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

    images: Paths
    """Folder of the images, or a list of files; relative to the data file."""
    labels: Paths
    """Folder of the label maps, paired with the images by the files' names without endings; or a list, in the same
    order."""

    @field_validator("images", "labels", mode="before")
    @classmethod
    def _folder_or_files(cls, value: Any) -> Any:
        items = value if isinstance(value, list) else [value]
        if not items or not all(map(_is_path, items)):
            raise ValueError("expected a folder, or a list of files")
        paths = [str(Path(os.path.expanduser(item.replace("\\", "/")))) for item in items]
        return paths if isinstance(value, list) else paths[0]


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
    Several ids may be one class."""
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
        return _without_contradiction((int(key) if key.isdecimal() else key, name) for key, name in table.items())

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


def _is_path(item: Any) -> bool:
    return isinstance(item, str) and item != "" and item.isprintable()


def _without_contradiction(entries: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return entries as a table, unless two say different things of the same id or color, written in two ways."""
    table: dict[Any, Any] = {}
    for key, name in entries:
        if table.setdefault(key, name) != name:
            raise ValueError(f"{key} is both {table[key]!r} and {name!r}")
    return table
