"""Label spaces: what the outputs of a teacher mean in the classes of the data.

A class map goes from the teacher's classes, by name or by the number of the output, to the data's, several to one where
that is so. Outputs that it leaves out, or calls "ignore", mean none of the classes.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segdistill.checkpoint import ModelInfo
from segdistill.errors import UsageError, nearest
from segdistill.losses import NO_CHANCE
from segdistill.networks import SegNetwork
from segdistill.networks._base import enlarged
from segdistill.types import IGNORE, Batch, SegOutput

MOST_MISTAKES = 20
"""After which no further ones are looked for: each takes a search for names like it."""
NONE = "ignore"
"""What a class map calls the classes that the data does not have."""


class Meaning(NamedTuple):
    """What outputs mean."""

    groups: tuple[tuple[int, ...], ...]
    """Of each of the data's classes the outputs that mean it; empty where none does."""
    unmapped: tuple[int, ...]
    """The outputs that mean none of them."""

    @property
    def lacking(self) -> tuple[int, ...]:
        """The classes that no output means."""
        return tuple(index for index, group in enumerate(self.groups) if not group)

    def in_words(self) -> str:
        """Return how many outputs mean how many classes, as a sentence."""
        mapped = sum(map(len, self.groups))
        rest = f"; the other {len(self.unmapped)} mean none of them" if self.unmapped else ""
        return f"{mapped} of its outputs mean {len(self.known)} of the {len(self.groups)} classes{rest}."

    @property
    def known(self) -> tuple[int, ...]:
        """The classes that some output means."""
        return tuple(index for index, group in enumerate(self.groups) if group)


class Mapped(SegNetwork):
    """A network with other classes, seen in those of the data.

    Its logits are (B, C, h, w), or (B, C + 1, h, w) where some outputs mean none of the classes: that is the last.
    """

    def __init__(self, network: SegNetwork, meaning: Meaning) -> None:
        super().__init__(len(meaning.groups) + bool(meaning.unmapped))
        self.expect(self.images, align_corners=network.align_corners)
        self.network = network
        self.meaning = meaning
        self.training_only = tuple(f"network.{start}" for start in network.training_only)

    def forward(self, image: Tensor) -> SegOutput:
        """Segment images (B, 3, H, W), RGB in 0..255."""
        output: SegOutput = self.network(image)
        return SegOutput(mapped(output.logits, self.meaning), output.features, None)

    def _get_name(self) -> str:
        return type(self.network).__name__  # what messages call it

    def compared(self, batch: Batch, logits: Tensor) -> Batch:
        """Return the batch with pixels left out that this teacher cannot speak of.

        These are the ones of a class that it lacks, and those where more than half of its probability means none.

        Args:
            batch: labels in the data's classes.
            logits: this network's for its images.
        """
        valid = batch.compared() & ~self._lacks(batch.label)
        if self.meaning.unmapped:
            classes, none = logits[:, :-1].float(), logits[:, -1:].float()
            odds = enlarged(none - classes.logsumexp(1, keepdim=True), batch.image, align_corners=self.align_corners)
            valid = valid & (odds.squeeze(1) <= 0)
        return batch._replace(valid=valid, label=batch.label.masked_fill(~valid, IGNORE))

    def of_known_classes(self, batch: Batch) -> Batch:
        """Return the batch without the labels of classes that this teacher lacks."""
        return batch._replace(label=batch.label.masked_fill(self._lacks(batch.label), IGNORE))

    def _lacks(self, label: Tensor) -> Tensor:
        return torch.isin(label, label.new_tensor(self.meaning.lacking))


def mapped(logits: Tensor, meaning: Meaning) -> Tensor:
    """Return logits of the data's classes: the softmax of each is the sum of its outputs' softmax.

    Args:
        logits: (B, outputs, h, w).
        meaning: of the outputs, for C classes.

    Returns:
        (B, C, h, w) float32, NO_CHANCE where no output means the class. Where outputs mean none of the classes there is
        one channel more, the last, of these together.
    """
    logits = logits.float()  # in float16 there is no NO_CHANCE
    groups = [*meaning.groups, *([meaning.unmapped] if meaning.unmapped else [])]
    nothing = torch.full_like(logits[:, 0], NO_CHANCE)
    return torch.stack([logits[:, list(group)].logsumexp(1) if group else nothing for group in groups], dim=1)


def resolve_class_map(table: Mapping[str, str], teacher: Sequence[str], data: Sequence[str]) -> dict[str, str]:
    """Return a class map in the spelling of both sides, in the order of the teacher's outputs.

    Args:
        table: from a class or the number of an output to a class or "ignore"; case, spaces, underscores and hyphens do
            not matter.
        teacher: the teacher's classes.
        data: the data's.

    Raises:
        UsageError: naming all mistakes at once, with the nearest names.
    """
    mistakes: list[str] = []
    found: dict[int, str] = {}
    for key, value in table.items():
        if len(mistakes) >= MOST_MISTAKES:
            mistakes.append("and perhaps more")
            break
        outputs = _named(key, teacher) or ([int(key)] if key.isdecimal() and int(key) < len(teacher) else [])
        meant = [NONE] if value == NONE else [data[index] for index in _named(value, data)]
        if not outputs:
            close = f"Its outputs are 0 to {len(teacher) - 1}." if key.isdecimal() else nearest(key, teacher)
            mistakes.append(f"the teacher has no class {key!r}. {close}")
        if len(outputs) > 1:
            mistakes.append(f"{key!r} is the name of outputs {' and '.join(map(str, outputs))}: give the number.")
        if not meant:
            mistakes.append(f'{key!r}: the data has no class {value!r}. {nearest(value, data)} Or "{NONE}".')
        if len(outputs) == 1 and meant and found.setdefault(outputs[0], meant[0]) != meant[0]:
            mistakes.append(f"{key!r} is both {found[outputs[0]]!r} and {meant[0]!r}.")
    if not mistakes and set(found.values()) <= {NONE}:
        mistakes.append("no class of the teacher is one of the data's.")
    if mistakes:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise UsageError(f"{count} in the class map:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))
    return {key: found[index] for index, key in enumerate(_keys(teacher)) if index in found}


def meaning_of(info: ModelInfo, table: Mapping[str, str] | None, data: Sequence[str]) -> tuple[Meaning, str]:
    """Return what a teacher's outputs mean in the data's classes, and a warning where that is worth one.

    Without a class map the classes must be the same, in any order and spelling; a teacher whose classes have no names
    may have as many.

    Raises:
        UsageError: if they are not the same, or the map has mistakes.
    """
    classes, warning = info.classes, ""
    if table is not None:
        table = resolve_class_map(table, classes, data)
    elif sorted(map(_plain, classes)) == sorted(map(_plain, data)):
        table = dict(zip(sorted(classes, key=_plain), sorted(data, key=_plain), strict=True))
    elif len(classes) == len(data) and list(classes) == [str(index) for index in range(len(data))]:
        table = dict(zip(classes, data, strict=True))
        warning = f"The teacher's {len(classes)} outputs have no names: they are taken for the data's classes in order."
    else:
        raise UsageError(
            "The teacher's classes are not those of the data.\n"
            f"  teacher ({len(classes)}): {', '.join(classes)}\n"
            f"  data ({len(data)}): {', '.join(data)}",
            "Say with --class-map FILE.toml which are the same, give the data it was trained on, or train a teacher on "
            "this data (`segdistill train-teacher`).",
        )
    meant = [table.get(key, NONE) for key in _keys(classes)]
    if info.void_output is not None:
        meant.insert(info.void_output, NONE)

    def outputs(name: str) -> tuple[int, ...]:
        return tuple(index for index, own in enumerate(meant) if own == name)

    meaning = Meaning(tuple(map(outputs, data)), outputs(NONE))
    if meaning.lacking:
        lost = ", ".join(data[index] for index in meaning.lacking)
        warning = f"The teacher knows nothing of {lost}: the terms leave out pixels of that label."
    return meaning, warning


def in_classes_of(network: SegNetwork, meaning: Meaning) -> SegNetwork:
    """Return a network in the data's classes: itself where its outputs are these, in this order."""
    same = not meaning.unmapped and meaning.groups == tuple((index,) for index in range(len(meaning.groups)))
    return network if same else Mapped(network, meaning)


def _keys(classes: Sequence[str]) -> list[str]:
    """Return what a class map calls each output: its name, or its number where several share one."""
    count = Counter(classes)
    return [name if count[name] == 1 else str(index) for index, name in enumerate(classes)]


def _named(name: str, names: Sequence[str]) -> list[int]:
    """Return the positions of a name: as it is spelled, else in any spelling."""
    exact = [index for index, own in enumerate(names) if own == name]
    if exact or name.lstrip("-").isdecimal():  # -1 is no spelling of 1
        return exact
    return [index for index, own in enumerate(names) if _plain(own) == _plain(name)]


def _plain(name: str) -> str:
    """Return what two spellings of a name have in common."""
    return re.sub(r"[\s_-]+", "", name).casefold()
