"""Tables of classes that annotation tools write: names with ids or colors.

Known are CVAT's labelmap.txt, Roboflow's _classes.csv, class_dict.csv, tables with a header that names such columns,
lines of red, green, blue and a name, Supervisely's meta.json, id2label in JSON, and lists of names.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdistill.data.discovery.inventory import Inventory
from segdistill.storage.files import read_file

Color = tuple[int, int, int]
MAX_TABLE_BYTES = 1 << 20
MAX_CLASSES = 1000
NAME_COLUMNS = ("name", "class", "classname", "class_name", "label", "label_name", "category")
ID_COLUMNS = ("id", "pixel value", "pixel_value", "value", "index", "class_id", "label_id", "pixel", "gray", "grey")
RED_GREEN_BLUE = (("r", "red"), ("g", "green"), ("b", "blue"))
NAME_LISTS = re.compile(
    r"(obj\.|class[_-]?)?(names|classes|labels)|label[_-]?names|class[_-]?labels?|classes?[_-]?list"
)
"""Names of files, without ending, with a class on each line."""
NO_NAME = re.compile(r"^[#;]")


@dataclass(frozen=True)
class TableEntry:
    """A class of a table."""

    name: str
    id: int | None = None
    color: Color | None = None


@dataclass(frozen=True)
class ClassTable:
    """Classes as an annotation tool lists them."""

    path: Path
    entries: tuple[TableEntry, ...]

    @property
    def has_ids(self) -> bool:
        """Whether every class has an id."""
        return all(entry.id is not None for entry in self.entries)

    @property
    def has_colors(self) -> bool:
        """Whether every class has a color."""
        return all(entry.color is not None for entry in self.entries)


def find_class_table(inventory: Inventory) -> ClassTable | None:
    """Return the table of classes in a folder or below it, that with the most to say; None where there is none."""
    found = [table for path in (*inventory.texts, *inventory.jsons) if (table := _read_table(path)) is not None]
    # Tables of single splits are equal; one with ids or colors says more than a list of names.
    found.sort(key=lambda table: (not (table.has_ids or table.has_colors), -len(table.entries), str(table.path)))
    return found[0] if found else None


def _read_table(path: Path) -> ClassTable | None:
    try:
        text = read_file(path, MAX_TABLE_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    entries: Sequence[TableEntry] = ()
    if path.suffix.lower() == ".json":
        entries = _of_json(text)
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        readers = (_of_cvat, _of_columns, _of_numbers_and_names)
        entries = next((found for reader in readers if (found := list(reader(lines)))), ())
        if not entries and NAME_LISTS.fullmatch(path.stem.lower()):
            entries = list(_of_names(lines))
    names = [entry.name for entry in entries]
    if not 1 <= len(entries) <= MAX_CLASSES or len(set(names)) < len(names):
        return None
    return ClassTable(path, tuple(entries))


def _of_cvat(lines: Sequence[str]) -> Iterator[TableEntry]:
    """Yield the classes of CVAT's labelmap.txt: road:128,64,128:parts:actions."""
    rows = [line.split(":") for line in lines if not NO_NAME.match(line)]
    if not all(len(row) == 4 for row in rows):
        return
    for name, color, *_ in rows:
        yield TableEntry(name.strip(), color=_color(color.split(",")))


def _of_columns(lines: Sequence[str]) -> Iterator[TableEntry]:
    """Yield the classes of a table whose first line names the columns."""
    if len(lines) < 2:
        return
    separator = next((one for one in ",;\t" if one in lines[0]), ",")
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    header = [cell.lower() for cell in rows[0]]
    name = _column(header, NAME_COLUMNS)
    id_ = _column(header, ID_COLUMNS)
    colors = [_column(header, names) for names in RED_GREEN_BLUE]
    joined_color = _column(header, ("color", "colour", "rgb", "hex"))
    if name is None or (id_ is None and None in colors and joined_color is None):
        return
    for row in rows[1:]:
        if len(row) < len(header):
            continue
        color = None
        if None not in colors:
            color = _color([row[place] for place in colors if place is not None])
        elif joined_color is not None:
            color = _color(re.findall(r"\d+", row[joined_color])) or _hex_color(row[joined_color])
        number = None if id_ is None else row[id_]
        yield TableEntry(row[name], int(number) if number is not None and number.isdecimal() else None, color)


def _of_numbers_and_names(lines: Sequence[str]) -> Iterator[TableEntry]:
    """Yield the classes of lines such as "128 64 128 road", "road 128 64 128", "7: road" or "7 road"."""
    found = []
    for line in lines:
        if NO_NAME.match(line):
            continue
        entry = _of_line(line)
        if entry is None:
            return
        found.append(entry)
    yield from found


def _of_line(line: str) -> TableEntry | None:
    before = re.fullmatch(r"(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\D.*)", line)
    if before is not None:
        return TableEntry(before[4].strip(), color=_color(before.groups()[:3]))
    behind = re.fullmatch(r"(\D.*?)[\s,:]+\[?\(?(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})\)?\]?", line)
    if behind is not None:
        return TableEntry(behind[1].strip(), color=_color(behind.groups()[1:]))
    numbered = re.fullmatch(r"(\d{1,5})(?:\s*[:,=]\s*|\s+)(\D.*)", line)
    if numbered is not None:
        return TableEntry(numbered[2].strip(), int(numbered[1]))
    return None


def _of_names(lines: Sequence[str]) -> Iterator[TableEntry]:
    for line in lines:
        if not NO_NAME.match(line):
            yield TableEntry(line.strip(" ,\"'"))


def _of_json(text: str) -> list[TableEntry]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if isinstance(table, dict) and isinstance(table.get("classes"), list):
        table = table["classes"]
    if isinstance(table, dict) and isinstance(table.get("id2label"), dict):
        table = table["id2label"]
    if isinstance(table, dict):
        if table and all(str(key).isdecimal() and isinstance(name, str) for key, name in table.items()):
            return [TableEntry(name, int(key)) for key, name in table.items()]
        return []
    if isinstance(table, list):
        entries = [_of_json_class(item) for item in table]
        found = [entry for entry in entries if entry is not None]
        return found if len(found) == len(entries) else []
    return []


def _of_json_class(item: Any) -> TableEntry | None:
    """Return the class of an entry such as {"title": "road", "color": "#804080"}."""
    if not isinstance(item, dict) or {"shapes", "segmentation", "file_name"} & item.keys():
        return None
    name = item.get("title", item.get("name"))
    color = item.get("color")
    if not isinstance(name, str) or color is None:
        return None
    number = item.get("id", item.get("trainId"))
    id_ = number if isinstance(number, int) and 0 <= number < 1 << 16 and "title" not in item else None
    if isinstance(color, str):
        return TableEntry(name, id_, _hex_color(color))
    return TableEntry(name, id_, _color(color) if isinstance(color, list) else None)


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _color(channels: Sequence[Any]) -> Color | None:
    texts = [str(channel).strip() for channel in channels]
    if len(texts) != 3 or not all(text.isdecimal() and int(text) <= 255 for text in texts):
        return None
    red, green, blue = map(int, texts)
    return red, green, blue


def _hex_color(text: str) -> Color | None:
    match = re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text.strip())
    if match is None:
        return None
    red, green, blue = (int(channel, 16) for channel in match.groups())
    return red, green, blue
