"""Whether all label maps of a data set mean the same by their ids.

Three checks, each for a mistake that leaves every single file in order: masks of 0 and 255 among masks of 0 and 1,
palettes that give an id another color, and indices of a palette that were saved as gray values. Each takes one label
map after the other, keeps no more than names and colors, and ends in at most one sentence.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from segdistill.data.label_ids import NO_COLOR, StoredIds
from segdistill.types import IGNORE
from segdistill.wording import listed

WHITE_ID = 255
"""The id that masks in black and white give their class, and that means ignore nearly everywhere else."""


@dataclass
class WhiteMasks:
    """Masks of 0 and 255, where 255 is ignored and may be meant as a class drawn in white."""

    void_only: list[str] = field(default_factory=list)
    """Files that hold 0 and an ignored 255 alone."""
    class_only: list[str] = field(default_factory=list)
    """Files that hold classes beside 0, and no ignored 255."""
    mixed: bool = False
    """A file holds both: 255 is void, as it should be."""

    def add(self, ids: StoredIds) -> None:
        """Take a label map into account."""
        has_void = bool((ids.classes[ids.used == WHITE_ID] == IGNORE).any())
        has_class = bool(_class_ids(ids))
        if has_void and has_class:
            self.mixed = True
        if has_void and ids.used.tolist() == [0, WHITE_ID]:
            self.void_only.append(ids.name)
        if has_class and not has_void:
            self.class_only.append(ids.name)

    def warnings(self) -> Iterator[str]:
        """Yield a sentence if files with a class and files with 255 never overlap."""
        if self.void_only and self.class_only and not self.mixed:
            yield (
                f"Label maps that hold the ids 0 and 255 alone ({len(self.void_only)}): {listed(self.void_only)}. "
                f"Others ({len(self.class_only)}, {self.class_only[0]} the first) hold a class beside 0 and no 255, "
                "and none holds both. 255 means ignore here; where it is a class drawn in white, save all label maps "
                "with the same ids."
            )


@dataclass
class PaletteColors:
    """Colors that palettes give the ids of classes; the first palette with an id decides."""

    colors: npt.NDArray[np.int16] = field(default_factory=lambda: np.full((256, 3), NO_COLOR, np.int16))
    """(256, 3) RGB of each id in the first palette with it."""
    sources: dict[int, str] = field(default_factory=dict)
    """The file of that palette, by id."""
    recolored: list[str] = field(default_factory=list)
    """Files whose palette gives an id another color."""
    example: str = ""
    """The first such id in words."""

    def add(self, ids: StoredIds) -> None:
        """Take a label map into account; what its palette says of ids that it does not use, or ignores, is no news."""
        if ids.colors is None:
            return
        is_class = ids.classes != IGNORE
        used = ids.used[is_class]
        colors = ids.colors[is_class]
        earlier_colors = self.colors[used]
        is_new = (earlier_colors < 0).any(1)
        differs = ~is_new & (earlier_colors != colors).any(1)
        if differs.any():
            self.recolored.append(ids.name)
            if not self.example:
                first = int(np.flatnonzero(differs)[0])
                id_ = int(used[first])
                self.example = (
                    f"id {id_} is {_color_text(earlier_colors[first])} in {self.sources[id_]} and "
                    f"{_color_text(colors[first])} in {ids.name}"
                )
        self.colors[used[is_new]] = colors[is_new]
        self.sources.update(dict.fromkeys(used[is_new].tolist(), ids.name))

    def warnings(self) -> Iterator[str]:
        """Yield a sentence if palettes disagree."""
        if self.recolored:
            yield (
                f"Label maps whose palette gives an id another color than others do ({len(self.recolored)}): "
                f"{listed(self.recolored)}. For example, {self.example}. Ids are read, colors are not: if the colors "
                "are right, name them under [colors] of a data.toml."
            )


@dataclass
class GrayValues:
    """Ids of classes that are gray values, beside those that are indices of a palette."""

    indexed: set[int] = field(default_factory=set)
    """Ids that are indices of a palette."""
    gray: dict[int, str] = field(default_factory=dict)
    """Ids that are gray values, each with the first file that holds it."""

    def add(self, ids: StoredIds) -> None:
        """Take a label map into account."""
        class_ids = _class_ids(ids)
        if ids.colors is not None:
            self.indexed.update(class_ids)
            return
        for id_ in class_ids:
            self.gray.setdefault(id_, ids.name)

    def warnings(self) -> Iterator[str]:
        """Yield a sentence if both kinds of label maps are there and share no id."""
        if self.gray and self.indexed and self.gray.keys().isdisjoint(self.indexed):
            gray_id, file = min(self.gray.items())
            yield (
                f"Label maps in gray and label maps with a palette that share no id beside 0: {gray_id} is in {file}, "
                f"for example, and {min(self.indexed)} in others. Indices of a palette that were saved as gray became "
                "the brightness of their colors: save all label maps with the same ids."
            )


@dataclass
class IdConsistency:
    """All checks of what label maps mean by their ids."""

    white_masks: WhiteMasks = field(default_factory=WhiteMasks)
    palettes: PaletteColors = field(default_factory=PaletteColors)
    gray_values: GrayValues = field(default_factory=GrayValues)

    def add(self, ids: StoredIds) -> None:
        """Take a label map into account."""
        self.white_masks.add(ids)
        self.palettes.add(ids)
        self.gray_values.add(ids)

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each way in which label maps disagree."""
        yield from self.white_masks.warnings()
        yield from self.palettes.warnings()
        yield from self.gray_values.warnings()


def _class_ids(ids: StoredIds) -> list[int]:
    """Return the ids of classes in a label map; not 0, which is background in every kind of label map."""
    class_ids: list[int] = ids.used[(ids.used != 0) & (ids.classes != IGNORE)].tolist()
    return class_ids


def _color_text(color: npt.NDArray[np.int16]) -> str:
    return ",".join(map(str, color.tolist()))
