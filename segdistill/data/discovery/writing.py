"""A data.toml as text, with comments on what was found and what to look at."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segdistill.config.registry import components
from segdistill.data.discovery.class_plan import ClassPlan
from segdistill.data.discovery.entries import Table
from segdistill.errors import UsageError
from segdistill.wording import counted

MAX_NAME = 64
DEFAULT_NAME = "own"
MAX_LINE = 100
"""Characters of a list of classes on one line."""


@dataclass(frozen=True)
class WrittenSplit:
    """A split as it is written."""

    table: Table
    images: int
    """Number of pairs."""
    left_out: int = 0
    """Number of images without a label map."""


@dataclass(frozen=True)
class DataFileText:
    """What a data.toml says."""

    name: str
    plan: ClassPlan
    splits: Mapping[str, WrittenSplit]
    absent: tuple[str, ...] = ()
    """Classes without a training pixel."""

    def text(self, file_name: str) -> str:
        """Return the text of the file of this name."""
        return "\n".join(self._lines(file_name)) + "\n"

    def _lines(self, file_name: str) -> Iterator[str]:
        yield "# Written by `segdistill data init`. Paths are relative to this file. Look at what it means with"
        yield f"#     segdistill data check {file_name} --preview look.png"
        yield f"name = {_quoted(self.name)}"
        yield ""
        if not self.plan.are_named:
            where = " and in the table below" if self.plan.ids or self.plan.label_colors else ""
            yield f"# Nothing here says what the classes are called: give them names here{where}."
        yield from _class_lines(self.plan)
        if self.absent:
            yield "# No training label has these. Take them out of `classes` if nothing ever will."
            yield f"absent = {_quoted(self.absent)}"
        for split, written in self.splits.items():
            yield ""
            yield f"[{split}]  # {_split_comment(written)}"
            for key, value in written.table.items():
                yield f"{key} = {_quoted(value)}{_key_comment(key, written)}"
        yield from _table_lines("ids", [(key, name) for key, name in self.plan.ids])
        colors = [(",".join(map(str, color)), name) for color, name in self.plan.label_colors]
        yield from _table_lines("colors", colors)


def data_name(root: Path) -> str:
    """Return a name for a data set after its folder."""
    text = re.sub(r"[^A-Za-z0-9_-]+", "-", root.resolve().name).strip("-_")[:MAX_NAME] or DEFAULT_NAME
    return f"{text[: MAX_NAME - 4]}-own" if text in components("data.datasets") else text


def relative_to(base: Path, path: Path) -> str:
    """Return a path as a data.toml in a folder has it: relative where one lies in the other, else from the root.

    Raises:
        UsageError: if the path is no text that TOML can hold.
    """
    resolved, resolved_base = path.resolve(), base.resolve()
    is_near = resolved_base in (resolved, *resolved.parents) or resolved in resolved_base.parents
    text = os.path.relpath(resolved, resolved_base) if is_near else str(resolved)
    if not text.isprintable():
        raise UsageError(f"The name of {path!s} has characters that a data.toml cannot hold.", "Rename it.")
    return Path(text).as_posix()


def joined(place: str, path: str) -> str:
    """Return the path of a file below a folder, as a data.toml has it.

    Raises:
        UsageError: if it has characters that neither a list nor TOML can hold.
    """
    if not path.isprintable():
        raise UsageError(f"The name of {path!r} has characters that a data.toml cannot hold.", "Rename it.")
    return os.path.normpath(f"{place}/{path}")


def _class_lines(plan: ClassPlan) -> Iterator[str]:
    if plan.colors is not None:
        yield "classes = ["
        for name, color in zip(plan.names, plan.colors, strict=True):
            yield f"  {{name = {_quoted(name)}, color = {list(color)}}},"
        yield "]"
        return
    line = f"classes = {_quoted(plan.names)}"
    if len(line) <= MAX_LINE:
        yield line
        return
    yield "classes = ["
    yield from (f"  {_quoted(name)}," for name in plan.names)
    yield "]"


def _table_lines(key: str, entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    if not entries:
        return
    comments = {"ids": "which class each id in the label maps is", "colors": "which class each color is, as R,G,B"}
    yield ""
    yield f"[{key}]  # {comments[key]}"
    for value, name in entries:
        yield f"{value if value.isdecimal() else _quoted(value)} = {_quoted(name)}"


def _split_comment(written: WrittenSplit) -> str:
    if "share" in written.table:
        return f"{counted(written.images, 'pair')}, taken from those of [train]; a hash of the names chooses them"
    return counted(written.images, "pair")


def _key_comment(key: str, written: WrittenSplit) -> str:
    if key == "unlabeled":
        return f'  # {counted(written.left_out, "image")} without a label map; "use" in [train] learns from them, too'
    return ""


def _quoted(value: object) -> str:
    """Return a value as TOML has it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_quoted, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
