"""Which split each pair belongs to: by lists, else by folders; of what is left, a part is kept to validate on."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from segdistill.data.base import SPLITS
from segdistill.data.datasets._toml.pairs import FoundPairs
from segdistill.data.datasets._toml.shares import draw_shares
from segdistill.data.discovery.inventory import Inventory
from segdistill.data.discovery.words import split_of, words_of
from segdistill.data.name_list import FileFinder, read_name_list
from segdistill.errors import DataError

USUAL_SHARE = 0.2
"""Share of the training pairs that are kept to validate on."""
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
"""Shares that are tried, for the one that comes nearest to that and leaves every class to train on."""


class LabeledImage(NamedTuple):
    """An image with its label map, as paths relative to the folder of the data.toml."""

    image: str
    label: str
    split: str | None
    """Split that its folder says."""
    classes: frozenset[int]
    """Classes that the label map has."""


class _NamedImages(NamedTuple):
    """A list, and the images that it names."""

    path: Path
    images: frozenset[str]


@dataclass(frozen=True)
class SplitPlan:
    """The pairs of each split."""

    pairs: Mapping[str, tuple[LabeledImage, ...]]
    lists: Mapping[str, Path]
    """Lists that say so, by split."""
    notes: tuple[str, ...] = ()


def plan_splits(inventory: Inventory, base: Path, pairs: Sequence[LabeledImage], images: Sequence[str]) -> SplitPlan:
    """Return the splits of pairs.

    Args:
        inventory: for the lists in it.
        base: folder that paths are relative to.
        pairs: all pairs.
        images: all images, those without a label map among them, which lists may name.
    """
    lists, notes = _find_lists(inventory, base, pairs, images)
    if lists:
        chosen = {split: _listed(names.images, pairs) for split, names in lists.items()}
        left = len(pairs) - len({pair.image for found in chosen.values() for pair in found})
        if left:
            notes.append(f"Pairs that no list names, which are left out: {left}.")
    else:
        chosen = {split: tuple(pair for pair in pairs if pair.split == split) for split in SPLITS}
        unclear = tuple(pair for pair in pairs if pair.split is None)
        chosen["train"] += unclear
    chosen = {split: found for split, found in chosen.items() if found}
    paths = {split: names.path for split, names in lists.items() if split in chosen}
    if "train" not in chosen and chosen:  # a folder called test alone is all there is
        first = next(iter(chosen))
        chosen["train"] = chosen.pop(first)
        paths = {"train": paths.pop(first), **paths} if first in paths else paths
        notes.append(f"There is no train split: the {first} split is trained on.")
    return SplitPlan(chosen, paths, tuple(notes))


def choose_share(found: FoundPairs, classes: Mapping[str, frozenset[int]]) -> float | None:
    """Return the share of the training pairs that leaves a fifth to validate on, or what is next to it.

    None where each share would take the last pair of some class.

    Args:
        found: the training pairs.
        classes: those in the label map of each image.
    """
    wanted = classes_in(found, classes)
    count = USUAL_SHARE * len(found.images)
    possible: list[tuple[float, float, float]] = []
    for share in SHARES:
        splits = draw_shares(found, {"val": share})
        if classes_in(splits["train"], classes) == wanted:
            # Of a few images a hash may draw far more or fewer than the share.
            possible.append((abs(len(splits["val"].images) - count), abs(share - USUAL_SHARE), share))
    return min(possible)[2] if possible else None


def classes_in(found: FoundPairs, classes: Mapping[str, frozenset[int]]) -> set[int]:
    """Return the classes in the label maps of some pairs; `classes` as `choose_share` takes it."""
    return {index for file in found.images for index in classes[os.path.normpath(file.name)]}


def spare_pairs(train: Sequence[LabeledImage]) -> tuple[LabeledImage, ...]:
    """Return some pairs to validate on, without which every class is still there to train on, if there are such."""
    counts = Counter(index for pair in train for index in pair.classes)
    most = round(USUAL_SHARE * len(train)) or 1
    found: list[LabeledImage] = []
    for pair in train:
        if len(found) < most and all(counts[index] > 1 for index in pair.classes):
            found.append(pair)
            counts.subtract(pair.classes)
    return tuple(found)


def _find_lists(
    inventory: Inventory, base: Path, pairs: Sequence[LabeledImage], images: Sequence[str]
) -> tuple[dict[str, _NamedImages], list[str]]:
    """Return the list of each split, files called train.txt, val_list.csv and the like, and which are not usable."""
    found: dict[str, _NamedImages] = {}
    notes: list[str] = []
    image_finder = FileFinder((base,), {image: image for image in images})
    label_finder = FileFinder((base,), {pair.label: pair.label for pair in pairs})
    for path in inventory.texts:
        split = split_of(words_of(path.stem))
        if split is None or "trainval" in path.stem.lower():
            continue
        try:
            rows = read_name_list(path, image_finder, label_finder)
        except DataError as error:
            notes.append(f"Not used as a list of the {split} split: {error.what}")
            continue
        if split in found:
            notes.append(f"Not used as a list of the {split} split: {path}, as {found[split].path} is one.")
            continue
        found[split] = _NamedImages(path, frozenset(row.image for row in rows))
    return found, notes


def _listed(names: frozenset[str], pairs: Sequence[LabeledImage]) -> tuple[LabeledImage, ...]:
    """Return the pairs that a list names."""
    return tuple(pair for pair in pairs if pair.image in names)
