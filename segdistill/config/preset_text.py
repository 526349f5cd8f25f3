"""The text of a preset as one file that needs no recipe: its own over that of its recipes, with the comments of both.

This merges text, where `load_preset` merges values, because `tomllib` drops comments. A test holds the two together.
The files of `presets/` have the form that this needs: headings, keys and the comments above them stand at the beginning
of a line, and what continues the line before is indented. The first paragraph of a recipe is about the file itself and
is left out.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from segdistill.config.presets import built_in_preset, recipe_paths
from segdistill.config.toml import read_toml

ORDER = ("", "teacher", "student", "data", "optim", "checkpoint", "validate", "terms", "on")
"""Tables of a preset in their order, the nameless one of the first keys, and, within [on.NAME], those of a data set."""


class Table(NamedTuple):
    """A table's lines of text."""

    above: str
    """Comments before the heading, lines with ends between them."""
    heading: str
    """The line in brackets."""
    entries: dict[str, str]
    """Lines of each key, with the comments above and beside them."""


def preset_text(name: str) -> str:
    """Return a preset's complete file: what `presets show` prints and `presets copy` writes.

    Raises:
        UsageError: if there is no such preset, with the nearest names.
    """
    path = built_in_preset(name)
    layers = []
    for recipe in recipe_paths(read_toml(path), path):
        _, _, text = _read(recipe).partition("\n\n")  # without the first paragraph
        layers.append(_split(text))
    layers.append(_split(_read(path)))
    tables = _merge_tables(layers)
    tables[""].entries.pop("recipes", None)  # they are part of the text now
    return "\n\n".join(_join(tables[table]) for table in _sorted(tables)) + "\n"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _split(text: str) -> dict[str, Table]:
    """Return a file's tables by name, in its order."""
    tables = {"": Table("", "", {})}
    entries = tables[""].entries  # of the table that is read
    key = ""
    comments: list[str] = []  # since the last key or heading: they belong to what follows
    for line in text.splitlines():
        if line.startswith("["):
            name = line[1 : line.index("]")]
            tables[name] = Table("\n".join(comments).strip("\n"), line, {})
            entries = tables[name].entries
            comments = []
        elif not line or line.startswith("#"):
            comments.append(line)
        elif line[0].isspace():
            entries[key] += f"\n{line}"
        else:
            key = line.partition(" = ")[0]
            entries[key] = "\n".join([*comments, line])
            comments = []
    return tables


def _merge_tables(layers: Iterable[dict[str, Table]]) -> dict[str, Table]:
    """Return the tables of all layers, each over those before it: the keys of the topmost come first."""
    merged: dict[str, Table] = {}
    for layer in layers:
        for name, table in layer.items():
            beneath = merged.get(name, Table("", "", {}))
            above = "\n\n".join(text for text in (beneath.above, table.above) if text)
            # twice, for the topmost's order and for its values
            merged[name] = Table(above, table.heading, table.entries | beneath.entries | table.entries)
    return merged


def _sorted(names: Iterable[str]) -> list[str]:
    """Return the names of tables in the order of a preset, the tables of a data set next to each other."""
    data_sets = list(dict.fromkeys(name.split(".")[1] for name in names if name.startswith("on.")))

    def rank(name: str) -> tuple[int, int, int]:
        """Return the places in which tables are compared: of the outer table, of its data set, of the inner table."""
        first, *inner = name.split(".")
        if first != "on":
            return ORDER.index(first), 0, 0
        return ORDER.index(first), data_sets.index(inner[0]), ORDER.index(inner[1])

    return sorted(names, key=rank)


def _join(table: Table) -> str:
    return "\n".join(text for text in (table.above, table.heading, *table.entries.values()) if text)
