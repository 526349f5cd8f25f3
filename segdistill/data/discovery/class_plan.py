"""The classes of a data.toml, from what label maps hold and what a table of classes says."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from segdistill.data.discovery.annotations import BACKGROUND_NAMES
from segdistill.data.discovery.class_tables import ClassTable, TableEntry
from segdistill.data.discovery.content import Color, LabelContent
from segdistill.data.folder import soft_peaks
from segdistill.errors import DataError
from segdistill.types import IGNORE, MAX_CLASSES
from segdistill.wording import listed

IGNORE_NAME = "ignore"
VOID_NAMES = frozenset({"void", "ignore", "ignored", "__ignore__", "don't care", "dont care", "out of roi"})
"""Names of what counts nowhere."""
UNLABELED_NAMES = frozenset({"unlabeled", "unlabelled", "unannotated", "unknown", "undefined"})
"""Names of what counts nowhere beside at least two classes; beside one it is the background."""
GRAY_STEP = 16
"""Ids that are this far apart, and 255 among them, are gray values of classes: 255 is one of them, and not void."""
WHITE = 255


@dataclass(frozen=True)
class ClassPlan:
    """Classes, and what in label maps they are."""

    names: tuple[str, ...]
    colors: tuple[Color, ...] | None
    """One color per class to draw it in; None for those that the tool chooses."""
    ids: tuple[tuple[str, str], ...] = ()
    """Entries of [ids]: an id or a range, and a class; none where ids are 0, 1, 2, ..."""
    label_colors: tuple[tuple[Color, str], ...] = ()
    """Entries of [colors]; none where label maps hold ids."""
    class_of: Mapping[object, int] = field(default_factory=dict)
    """Class of each id or color that label maps hold, or IGNORE."""
    are_named: bool = True
    """Names are known; else they are made up of the ids."""
    notes: tuple[str, ...] = ()


def plan_classes(content: LabelContent, table: ClassTable | None, hint: str = "") -> ClassPlan:
    """Return the classes of label maps.

    Args:
        content: what they hold.
        table: what an annotation tool says of them.
        hint: name of the one class beside background, if the files' names have one.

    Raises:
        DataError: if there are fewer than two classes or too many, or a table lacks what label maps hold.
    """
    plan = _planned(content, table, hint)
    if not 2 <= len(plan.names) <= MAX_CLASSES:
        raise _impossible(plan, content)
    return plan


def _planned(content: LabelContent, table: ClassTable | None, hint: str) -> ClassPlan:
    if table is not None and table.has_colors:
        known = {entry.color for entry in table.entries}
        colors = content.colors
        if content.is_colored or known >= colors.keys():
            return _by_table_colors(content, table)
    if content.is_colored:
        return _by_colors(content)
    if table is not None:
        return _by_table_ids(content, table)
    return _by_ids(content, hint)


# Colors


def _by_table_colors(content: LabelContent, table: ClassTable) -> ClassPlan:
    unknown = [color for color in content.colors if color not in {entry.color for entry in table.entries}]
    if unknown:
        raise DataError(
            f"Label maps have colors that {table.path.name} does not have ({len(unknown)}): "
            f"{listed([','.join(map(str, color)) for color in unknown])}.",
            "Add them to it. Many that are nearly right come from JPEG or from resizing.",
        )
    classes, ignored = _divided(table.entries)
    names = _clean_names([entry.name for entry in classes])
    colors = [entry.color for entry in classes if entry.color is not None]
    if len(set(colors)) < len(colors):
        raise DataError(f"{table.path} gives two classes the same color.", "Give each a color of its own.")
    entries = [*zip(colors, names, strict=True)]
    entries += [(entry.color, IGNORE_NAME) for entry in ignored if entry.color is not None]
    class_of: dict[object, int] = {color: index for index, color in enumerate(colors)}
    class_of |= {entry.color: IGNORE for entry in ignored}
    return ClassPlan(
        tuple(names), tuple(colors), label_colors=tuple(entries), class_of=class_of, notes=_ignored_note(ignored)
    )


def _by_colors(content: LabelContent) -> ClassPlan:
    """Return classes that are called by their colors."""
    counts = content.colors
    if len(counts) > MAX_CLASSES:
        raise DataError(
            f"Label maps have {len(counts)} different colors.",
            "Expected one color for each class. Resizing with smooth edges, or JPEG, makes new ones.",
        )
    colors = sorted(counts)
    names = [_color_name(color) for color in colors]
    return ClassPlan(
        tuple(names),
        tuple(colors),
        label_colors=tuple(zip(colors, names, strict=True)),
        class_of={color: index for index, color in enumerate(colors)},
        are_named=False,
    )


def _color_name(color: Color) -> str:
    return "background" if color == (0, 0, 0) else "color_{}_{}_{}".format(*color)


# Ids


def _by_table_ids(content: LabelContent, table: ClassTable) -> ClassPlan:
    """Return the classes of a table whose ids are there, or follow from the order."""
    entries = list(table.entries)
    used = set(content.ids) - {IGNORE}
    if not table.has_ids:
        has_background = any(entry.name.casefold() in BACKGROUND_NAMES | VOID_NAMES for entry in entries)
        if not has_background and max(used, default=0) == len(entries):
            entries.insert(0, TableEntry("background"))  # tools number their classes from 1
        entries = [TableEntry(entry.name, number, entry.color) for number, entry in enumerate(entries)]
    elif 0 in used and all(entry.id != 0 for entry in entries):
        entries.insert(0, TableEntry("background", 0))
    unknown = sorted(used - {entry.id for entry in entries})
    if unknown:
        raise DataError(
            f"Label maps have ids that {table.path.name} does not have ({len(unknown)}): "
            f"{listed([str(id_) for id_ in unknown])}.",
            "Add them to it, or delete it: ids are then classes without names.",
        )
    classes, ignored = _divided(entries)
    names = _clean_names([entry.name for entry in classes])
    ids = [entry.id for entry in classes if entry.id is not None]
    class_of: dict[object, int] = {IGNORE: IGNORE}
    class_of.update((id_, index) for index, id_ in enumerate(ids))
    class_of.update((entry.id, IGNORE) for entry in ignored)
    colors = [entry.color for entry in classes if entry.color is not None]
    has_colors = len(set(colors)) == len(classes)
    return ClassPlan(
        tuple(names),
        tuple(colors) if has_colors else _palette_colors(content, ids),
        ids=_id_entries(ids, names, class_of),
        class_of=class_of,
        notes=_ignored_note(ignored),
    )


def _by_ids(content: LabelContent, hint: str) -> ClassPlan:
    """Return classes that are called by their ids."""
    counts = content.ids
    peaks = soft_peaks(list(counts), list(counts.values()))
    if peaks is not None:
        return _soft(peaks, hint)
    ids = sorted(counts)
    gray = [id_ for id_ in ids if id_ != 0]
    are_grays = len(gray) > 0 and gray[-1] == WHITE and all(id_ >= GRAY_STEP for id_ in gray)
    if not are_grays or len(ids) == 1:
        ids = [id_ for id_ in ids if id_ != IGNORE]
    if len(ids) > MAX_CLASSES:
        raise DataError(
            f"Label maps have {len(ids)} different ids.",
            "Expected one id for each class. Resizing with smooth edges makes new ones.",
        )
    names = [_id_name(id_, ids, hint) for id_ in ids]
    notes = []
    if are_grays and len(ids) > 2:
        notes.append('Ids are gray values far apart, so 255 is taken for a class. If it is void, make it "ignore".')
    class_of: dict[object, int] = {IGNORE: IGNORE, **{id_: index for index, id_ in enumerate(ids)}}
    return ClassPlan(
        tuple(names),
        _palette_colors(content, ids),
        ids=_id_entries(ids, names, class_of),
        class_of=class_of,
        are_named=not any(name == f"class_{id_}" for name, id_ in zip(names, ids, strict=True)),
        notes=tuple(notes),
    )


def _soft(peaks: tuple[int, int], hint: str) -> ClassPlan:
    """Return the two classes of masks with soft borders."""
    low, high = peaks
    middle = (low + high + 1) // 2
    names = ("background", hint or "foreground")
    return ClassPlan(
        names,
        None,
        ids=((f"0-{middle - 1}", names[0]), (f"{middle}-{max(high, WHITE)}", names[1])),
        class_of={id_: int(id_ >= middle) for id_ in range(max(high, WHITE) + 1)},
        notes=("Masks have soft borders: ids are read by ranges.",),
    )


def _id_name(id_: int, ids: Sequence[int], hint: str) -> str:
    if id_ == 0:
        return "background"
    if len(ids) == 2 and ids[0] == 0:
        return hint or "foreground"
    return f"class_{id_}"


def _id_entries(
    ids: Sequence[int], names: Sequence[str], class_of: Mapping[object, int]
) -> tuple[tuple[str, str], ...]:
    """Return the entries of [ids]; none where ids are those that a data.toml without it has."""
    ignored = sorted(id_ for id_, index in class_of.items() if index == IGNORE and isinstance(id_, int))
    if list(ids) == list(range(len(ids))) and set(ignored) <= {IGNORE}:
        return ()
    entries = [(str(id_), name) for id_, name in zip(ids, names, strict=True)]
    return (*entries, *((str(id_), IGNORE_NAME) for id_ in ignored if id_ not in set(ids)))


def _palette_colors(content: LabelContent, ids: Sequence[int]) -> tuple[Color, ...] | None:
    """Return the colors that palettes give the ids, if they give each its own."""
    palette = content.palette
    colors = [palette[id_] for id_ in ids if id_ in palette]
    return tuple(colors) if len(set(colors)) == len(ids) else None


# Names


def _divided(entries: Sequence[TableEntry]) -> tuple[list[TableEntry], list[TableEntry]]:
    """Return the classes of a table, and what of it counts nowhere."""
    ignored = [entry for entry in entries if entry.name.casefold() in VOID_NAMES]
    unlabeled = [entry for entry in entries if entry.name.casefold() in UNLABELED_NAMES]
    if len(entries) - len(ignored) - len(unlabeled) >= 2:
        ignored += unlabeled
    return [entry for entry in entries if entry not in ignored], ignored


def _ignored_note(ignored: Sequence[TableEntry]) -> tuple[str, ...]:
    if not ignored:
        return ()
    names = listed([entry.name for entry in ignored])
    return (f"Counts nowhere, as the name says: {names}. To learn it, make it a class.",)


def _clean_names(names: Sequence[str]) -> list[str]:
    """Return names that a data.toml may have: without blanks around them, none twice."""
    found: list[str] = []
    seen: set[str] = set()
    for number, name in enumerate(names):
        text = re.sub(r"\s+", " ", "".join(character for character in name if character.isprintable())).strip()
        text = text or f"class_{number}"
        while text.casefold() in seen:
            text = f"{text}_{number}"
        seen.add(text.casefold())
        found.append(text)
    return found


def _impossible(plan: ClassPlan, content: LabelContent) -> DataError:
    if len(plan.names) > MAX_CLASSES:
        return DataError(f"There are {len(plan.names)} classes.", f"At most {MAX_CLASSES} are possible.")
    held = listed([str(value) for value in sorted(content.colors if content.is_colored else content.ids)])
    return DataError(
        f"Label maps hold one class alone: {held}.",
        "Two at least are needed: what is no object is a class, too. Where nothing is drawn, label maps need the id 0.",
    )
