"""Class maps: what the outputs of a teacher mean in the classes of the data.

A class map goes from the teacher's classes, by name or by the number of the output, to the data's, several to one where
that is so. Outputs that it leaves out, or calls "ignore", mean none of the classes.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.errors import UsageError, nearest
from segdistill.wording import counted

MAX_LISTED = 20
"""Number of mistakes after which no further ones are looked for: each takes a search for names like it."""
IGNORED_CLASS = "ignore"
"""Word of a class map for the classes that the data does not have."""


class ClassMapping(NamedTuple):
    """Meanings of outputs, by their numbers."""

    groups: tuple[tuple[int, ...], ...]
    """For each of the data's classes the outputs that mean it; empty where none does."""
    unmapped: tuple[int, ...]
    """Outputs that mean none of the classes."""

    @property
    def missing_classes(self) -> tuple[int, ...]:
        """Ids of the classes that no output means."""
        known_classes = self.known_classes
        return tuple(index for index in range(len(self.groups)) if index not in known_classes)

    @property
    def known_classes(self) -> tuple[int, ...]:
        """Ids of the classes that some output means."""
        return tuple(index for index, group in enumerate(self.groups) if group)

    def summary(self) -> str:
        """Return how many outputs mean how many classes, as a sentence."""
        mapped_outputs = sum(map(len, self.groups))
        sentence = f"{mapped_outputs} of its outputs mean {len(self.known_classes)} of the {len(self.groups)} classes"
        if len(self.unmapped) == 1:
            return f"{sentence}; the other output means none of them."
        if self.unmapped:
            return f"{sentence}; the other {len(self.unmapped)} mean none of them."
        return f"{sentence}."


def resolve_class_map(
    class_map: Mapping[str, str], teacher_classes: Sequence[str], data_classes: Sequence[str]
) -> dict[str, str]:
    """Return a class map in the spelling of both sides, in the order of the teacher's outputs.

    Args:
        class_map: from a class or the number of an output to a class or "ignore"; case, spaces, underscores and hyphens
            do not matter.
        teacher_classes: names of the teacher's classes.
        data_classes: names of the data's.

    Raises:
        UsageError: naming all mistakes at once, with the nearest names.
    """
    mistakes: list[str] = []
    meanings: dict[int, str] = {}
    # All of them are told at once: who writes a map of 150 classes by hand makes more than one.
    for key, value in class_map.items():
        if len(mistakes) >= MAX_LISTED:
            mistakes.append("and perhaps more")
            break
        outputs = _outputs_named(key, teacher_classes)
        meaning = _class_named(value, data_classes)
        mistakes += _mistakes_of_key(key, outputs, teacher_classes)
        if meaning is None:
            nearest_classes = nearest(value, data_classes)
            mistakes.append(f'{key!r}: the data has no class {value!r}. {nearest_classes} Or "{IGNORED_CLASS}".')
        elif len(outputs) == 1:
            previous = meanings.setdefault(outputs[0], meaning)  # two spellings of one output may both be there
            if previous != meaning:
                mistakes.append(f"{key!r} is both {previous!r} and {meaning!r}.")
    # With a mistake in it, a map may be empty for that reason alone.
    if not mistakes and set(meanings.values()) <= {IGNORED_CLASS}:
        mistakes.append("no class of the teacher is one of the data's.")
    if mistakes:
        raise _class_map_error(mistakes)
    keys = output_keys(teacher_classes)
    return {keys[output]: meanings[output] for output in sorted(meanings)}


def mapped_classes(class_map: Mapping[str, str]) -> tuple[str, ...]:
    """Return the classes that a class map names, in the order of their first mention: where no data names any."""
    names: dict[str, str] = {}
    for meaning in class_map.values():
        if meaning != IGNORED_CLASS:
            names.setdefault(_plain(meaning), meaning)
    return tuple(names.values())


def match_classes(
    info: ModelInfo, class_map: Mapping[str, str] | None, data_classes: Sequence[str]
) -> tuple[ClassMapping, str]:
    """Return what a teacher's outputs mean in the data's classes, and a warning where that is worth one.

    Without a class map the classes must be the same, in any order and spelling; a teacher whose classes have no names
    may have as many.

    Raises:
        UsageError: if they are not the same, or the map has mistakes.
    """
    warning = ""
    if class_map is not None:
        resolved = resolve_class_map(class_map, info.classes, data_classes)
    elif same_classes(info.classes, data_classes):
        resolved = _by_spelling(info.classes, data_classes)
    elif list(info.classes) == [str(index) for index in range(len(data_classes))]:
        resolved = dict(zip(info.classes, data_classes, strict=True))
        warning = (
            f"The teacher's {len(info.classes)} outputs have no names: they are taken for the data's classes in order."
        )
    elif _is_and_is_not(info.classes, data_classes):
        object_class, other = sorted(data_classes, key=lambda name: _plain(name) != _plain(info.classes[1]))
        resolved = {info.classes[0]: other, info.classes[1]: object_class}
    else:
        raise _other_classes_error(info.classes, data_classes)
    mapping = _mapping_of(info, resolved, data_classes)
    # Nothing is wrong with that, where it is meant: a student learns those classes from their labels alone.
    if mapping.missing_classes:
        names = ", ".join(data_classes[index] for index in mapping.missing_classes)
        warning = f"The teacher knows nothing of {names}: the terms leave out pixels of that label."
    return mapping, warning


def same_classes(classes: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two lists have the same classes, in any order and spelling."""
    return sorted(map(_plain, classes)) == sorted(map(_plain, others))


def output_keys(classes: Sequence[str]) -> list[str]:
    """Return what a class map calls each output: its name, or its number where several outputs share one."""
    count = Counter(classes)
    return [name if count[name] == 1 else str(index) for index, name in enumerate(classes)]


def _mapping_of(info: ModelInfo, class_map: Mapping[str, str], data_classes: Sequence[str]) -> ClassMapping:
    """Return what outputs mean by a resolved class map; a void output means none of the classes."""
    meanings = [class_map.get(key, IGNORED_CLASS) for key in output_keys(info.classes)]
    if info.void_output is not None:  # it is an output, and no class of the teacher
        meanings.insert(info.void_output, IGNORED_CLASS)
    outputs: dict[str, list[int]] = {name: [] for name in (*data_classes, IGNORED_CLASS)}
    for output, meaning in enumerate(meanings):
        outputs[meaning].append(output)
    groups = tuple(tuple(outputs[name]) for name in data_classes)
    return ClassMapping(groups, unmapped=tuple(outputs[IGNORED_CLASS]))


def _is_and_is_not(teacher_classes: Sequence[str], data_classes: Sequence[str]) -> bool:
    """Whether a teacher knows one of the data's two classes and what is not that: one with a single output does."""
    if len(teacher_classes) != 2 or len(data_classes) != 2 or teacher_classes[0] != f"not {teacher_classes[1]}":
        return False
    return _plain(teacher_classes[1]) in map(_plain, data_classes)


def _by_spelling(teacher_classes: Sequence[str], data_classes: Sequence[str]) -> dict[str, str]:
    """Return the class map between names that are the same but for their spelling."""

    def by_spelling(name: str) -> tuple[str, str]:
        return _plain(name), name  # of two spellings in one list, each is first of all itself

    return dict(zip(sorted(teacher_classes, key=by_spelling), sorted(data_classes, key=by_spelling), strict=True))


def _outputs_named(key: str, teacher_classes: Sequence[str]) -> list[int]:
    """Return the outputs that a key of a class map may mean: a name comes before a number."""
    outputs = _positions(key, teacher_classes)
    if not outputs and key.isdecimal() and int(key) < len(teacher_classes):
        return [int(key)]
    return outputs


def _class_named(value: str, data_classes: Sequence[str]) -> str | None:
    """Return the class of the data that a value of a class map means, or "ignore"; None where it means nothing."""
    if value == IGNORED_CLASS:
        return value
    positions = _positions(value, data_classes)
    return data_classes[positions[0]] if positions else None


def _mistakes_of_key(key: str, outputs: Sequence[int], teacher_classes: Sequence[str]) -> list[str]:
    """Return what is wrong with a key of a class map that means these outputs; nothing where it is one."""
    if len(outputs) > 1:
        return [f"{key!r} is the name of outputs {' and '.join(map(str, outputs))}: give the number."]
    if outputs:
        return []
    if key.isdecimal():
        return [f"the teacher has no class {key!r}. Its outputs are 0 to {len(teacher_classes) - 1}."]
    return [f"the teacher has no class {key!r}. {nearest(key, teacher_classes)}"]


def _class_map_error(mistakes: Sequence[str]) -> UsageError:
    count = counted(len(mistakes), "mistake")
    lines = "\n".join(f"  {mistake}" for mistake in mistakes)
    return UsageError(f"{count} in the class map:\n{lines}")


def _other_classes_error(teacher_classes: Sequence[str], data_classes: Sequence[str]) -> UsageError:
    return UsageError(
        "The teacher's classes are not those of the data.\n"
        f"  teacher ({len(teacher_classes)}): {', '.join(teacher_classes)}\n"
        f"  data ({len(data_classes)}): {', '.join(data_classes)}",
        "Say with --class-map FILE.toml which are the same, give the data it was trained on, or train a teacher on "
        "this data (`segdistill train-teacher`).",
    )


def _positions(name: str, names: Sequence[str]) -> list[int]:
    """Return the positions of a name: as it is spelled, else in any spelling."""
    exact = _occurrences(name, names)
    if exact or name.lstrip("-").isdecimal():  # -1 is no spelling of 1
        return exact
    return _occurrences(_plain(name), [_plain(candidate) for candidate in names])


def _occurrences(name: str, names: Sequence[str]) -> list[int]:
    return [index for index, candidate in enumerate(names) if candidate == name]


def _plain(name: str) -> str:
    """Return what two spellings of a name have in common."""
    return re.sub(r"[\s_-]+", "", name).casefold()
