"""How the names of images and of their label maps differ: "_mask" at the end, "img_" and "gt_" at the beginning.

Names are tried as texts inside each other: what stands around an image's name in the names of label maps, again and
again, is what they differ by.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from segdistill.data.file_names import STAR, NamePattern, looks

SAMPLED_NAMES = 60
"""Names in which differences are looked for; all are then tried."""
MAX_CANDIDATES = 24
"""Differences that are tried, the frequent ones first."""


class Difference(NamedTuple):
    """Patterns by which images and label maps are paired, and what comes of them."""

    image_pattern: str
    label_pattern: str
    images: int
    """Images that have exactly one label map by them."""
    labels: int
    """Label maps that the pattern matches."""


def find_differences(images: Sequence[str], labels: Sequence[str]) -> list[Difference]:
    """Return the patterns that pair images with label maps, those first that pair the most images.

    Args:
        images: paths of the images below their folder, without endings.
        labels: the same of the label maps.
    """
    candidates = Counter[tuple[str, str]]()
    for image_pattern in dict.fromkeys([STAR, *_common_affixes(images)]):
        cores = _cores(images, image_pattern)
        for label_pattern, count in _surroundings(cores, labels).items():
            candidates[image_pattern, label_pattern] += count
    for label_pattern in dict.fromkeys([STAR, *_common_affixes(labels)]):
        cores = _cores(labels, label_pattern)
        for image_pattern, count in _surroundings(cores, images).items():
            candidates[image_pattern, label_pattern] += count
    found = [_tried(patterns, images, labels) for patterns, _ in candidates.most_common(MAX_CANDIDATES)]
    useful = [difference for difference in found if difference.images]
    # Of equal ones that with the shortest patterns: less is left to chance.
    useful.sort(key=lambda one: (-one.images, len(one.image_pattern) + len(one.label_pattern), one.label_pattern))
    return useful


def _cores(names: Iterable[str], pattern: str) -> set[str]:
    """Return what a pattern leaves of some names, the last part of each path alone."""
    parts = (NamePattern(pattern).shared_part(os.path.basename(name)) for name in names)
    return {looks(part) for part in parts if part}


def _surroundings(cores: set[str], names: Sequence[str]) -> Counter[str]:
    """Return what stands around a core in other names, as patterns, with how often it does."""
    found = Counter[str]()
    longest = max(map(len, cores), default=0)
    for name in _sample(names):
        stem = os.path.basename(name)
        folded = looks(stem)
        if len(folded) != len(stem):  # no place in one is a place in the other
            stem = folded
        found.update({_pattern(stem, *place) for place in _places(cores, folded, longest)})
    return found


def _places(cores: set[str], text: str, longest: int) -> Iterator[tuple[int, int]]:
    """Yield where a core begins and ends in a text, none inside a longer one that begins at the same place."""
    for start in range(len(text)):
        for end in range(min(len(text), start + longest), start, -1):
            if text[start:end] in cores:
                yield start, end
                break


def _pattern(stem: str, start: int, end: int) -> str:
    return f"{stem[:start]}{STAR}{stem[end:]}"


def _common_affixes(names: Sequence[str]) -> Iterator[str]:
    """Yield patterns of what all names begin and end with; digits at their inner ends belong to a number."""
    stems = [os.path.basename(name) for name in names]
    whole_prefix = _common_start(stems)
    whole_suffix = _common_start([stem[::-1] for stem in stems])[::-1]
    prefixes = [*re.findall(r"^\D*?[_. -]", whole_prefix), re.sub(r"\d+$", "", whole_prefix)]
    suffixes = [*re.findall(r"[_. -][^_. -]*\D$", whole_suffix), re.sub(r"^\d+", "", whole_suffix)]
    for prefix in dict.fromkeys(["", *prefixes]):
        for suffix in dict.fromkeys(["", *suffixes]):
            if prefix or suffix:
                yield f"{prefix}{STAR}{suffix}"


def _common_start(texts: Sequence[str]) -> str:
    """Return what all texts begin with."""
    shortest, longest = min(texts, default=""), max(texts, default="")  # in the order of the alphabet: all lie between
    for place, (one, other) in enumerate(zip(shortest, longest, strict=False)):
        if one != other:
            return shortest[:place]
    return shortest


def _sample(names: Sequence[str]) -> Sequence[str]:
    return names[:: max(1, len(names) // SAMPLED_NAMES)]


def _tried(patterns: tuple[str, str], images: Iterable[str], labels: Iterable[str]) -> Difference:
    """Count the images that two patterns give a label map."""
    image_pattern, label_pattern = map(NamePattern, patterns)
    label_parts = Counter(_shared_parts(label_pattern, labels))
    image_parts = Counter(_shared_parts(image_pattern, images))
    paired = sum(1 for part, count in image_parts.items() if count == 1 == label_parts[part])
    return Difference(*patterns, images=paired, labels=label_parts.total())


def _shared_parts(pattern: NamePattern, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        part = pattern.shared_part(name)
        if part is not None:
            yield looks(part)
