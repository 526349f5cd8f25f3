"""To which image each label map belongs, and what its name has beside the image's: a mark of labels, or a class.

The names of images are looked for inside those of label maps, the longest first, among the images of the same split and
sub-folder, then among all.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from segdistill.data.discovery.inventory import PictureFile
from segdistill.data.discovery.words import DERIVED, FILLERS, ROLES, Role, kind_of, words_of
from segdistill.data.file_names import STAR, NamePattern, looks
from segdistill.data.name_differences import find_differences

ANY = "any"
"""Pattern of label maps whose names have nothing to do with the images'."""
NO_CLASS = ROLES[Role.LABEL] | FILLERS | {ANY, "machine", "gtfine", "gtcoarse", "l", "trainids", "labeltrainids"}
"""Words in the names of label maps that are no classes."""
MIN_INNER_NAME = 3
"""Letters of a name that is found anywhere in others: one or two are in many words."""
MAX_NAME = 200
"""Characters of a name in which others are looked for."""


class Variant(NamedTuple):
    """What the names of label maps of one kind share beside the names of images."""

    folder: str
    """Folder that says that they are label maps."""
    dropped: str
    """Folder below it that no image has, such as that of a class."""
    pattern: str
    """Name, with a star for the image's."""

    @property
    def class_name(self) -> str:
        """What the name says beside that it is one of a label map: "road" of "*_mask_road-0"."""
        return "_".join(self.class_words)

    @property
    def class_words(self) -> list[str]:
        """Words of the class's name."""
        dropped = self.dropped if self.folder or self.pattern == STAR else ""
        text = re.sub(r"\.\w{3,4}\b", " ", f"{dropped} {self.pattern}")
        return [word for word in re.findall(r"[^\W_]+", text) if word not in NO_CLASS and not word.isdigit()]

    @property
    def is_derived(self) -> bool:
        """Whether the name says that these were made to look at, or for another task."""
        words = [*words_of(self.folder), *words_of(self.dropped), *re.findall(r"[^\W_]+", self.pattern)]
        return bool(DERIVED.intersection(words))


class Assigned(NamedTuple):
    """A label map of an image."""

    image: PictureFile
    label: PictureFile
    variant: Variant


@dataclass(frozen=True)
class Assignment:
    """Label maps with their images, as far as names tell."""

    image_pattern: str
    """Pattern of which the star is what label maps share with the images."""
    assigned: tuple[Assigned, ...]
    images: tuple[PictureFile, ...]
    """Images without a label map."""
    labels: tuple[PictureFile, ...]
    """Label maps without an image."""

    def variants(self) -> dict[Variant, list[Assigned]]:
        """Return the label maps of each kind, those first that most images have."""
        found: dict[Variant, list[Assigned]] = {}
        for entry in self.assigned:
            found.setdefault(entry.variant, []).append(entry)
        return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def assign(images: Sequence[PictureFile], labels: Sequence[PictureFile]) -> Assignment:
    """Find the image of each label map."""
    found = [_assign(pattern, images, labels) for pattern in _image_patterns(images, labels)]
    # Without a part of their names, images may be found in others by chance: that has to pay.
    found = [one for one in found if one.image_pattern == STAR or 2 * len(one.images) <= len(images)]
    return max(found, key=lambda one: (len(one.assigned), -len(one.image_pattern)))


def _image_patterns(images: Sequence[PictureFile], labels: Sequence[PictureFile]) -> list[str]:
    """Return the patterns by which the images' names may be shortened: none, and those that fit the most label maps."""
    found = find_differences([image.stem for image in images], [label.stem for label in labels])
    return list(dict.fromkeys([STAR, *(one.image_pattern for one in found[:3])]))


class _ImageNames:
    """Images by what label maps may call them."""

    def __init__(self, pattern: str, images: Sequence[PictureFile]) -> None:
        self.by_place: dict[tuple[str, ...], dict[str, list[PictureFile]]] = {}
        self.in_folder: dict[tuple[str, ...], list[PictureFile]] = {}
        for image in images:
            core = NamePattern(pattern).shared_part(image.stem)
            if not core:
                continue
            for place in {place for _, place in places_of(image)}:
                names = self.by_place.setdefault(place, {})
                for name in {looks(core), looks(core) + image.suffix}:
                    names.setdefault(name, []).append(image)
            self.in_folder.setdefault(_folder_key(image), []).append(image)

    def find(self, stem: str, place: tuple[str, ...]) -> tuple[PictureFile, str] | None:
        """Return the image whose name is in a label map's stem, and the pattern of what stands around it."""
        names = self.by_place.get(place, {})
        for begin, end in _inner_places(stem):
            images = names.get(stem[begin:end], [])
            if len(images) == 1:
                return images[0], f"{stem[:begin]}{STAR}{stem[end:]}"
        return None


def _assign(pattern: str, images: Sequence[PictureFile], labels: Sequence[PictureFile]) -> Assignment:
    names = _ImageNames(pattern, images)
    frequent = Counter(looks(label.stem)[:MAX_NAME] for label in labels)
    assigned: list[Assigned] = []
    lonely: list[PictureFile] = []
    for label in labels:
        entry = _find_image(names, label, frequent)
        if entry is None:
            lonely.append(label)
        else:
            assigned.append(entry)
    taken = {entry.image for entry in assigned}
    left = tuple(image for image in images if image not in taken)
    return Assignment(pattern, tuple(_without_chance(assigned)), left, tuple(lonely))


def _find_image(names: _ImageNames, label: PictureFile, frequent: Counter[str]) -> Assigned | None:
    stem = looks(label.stem)[:MAX_NAME]
    for dropped, place in places_of(label):
        found = names.find(stem, place)
        if found is not None:
            image, pattern = found
            return Assigned(image, label, Variant(kind_of(label.words.role_folder), dropped, pattern))
    if not label.words.rest:
        return None
    # Masks of single objects or classes may have names of their own: only the folder is the image's, or has its name.
    pattern = stem if frequent[stem] > 1 else ANY
    same_folder = names.in_folder.get(_folder_key(label), [])
    if len(same_folder) == 1:
        return Assigned(same_folder[0], label, Variant(kind_of(label.words.role_folder), "", pattern))
    *above, folder = map(looks, label.words.rest)
    for place in (("split", label.words.split or "", *above), ("any", *above)):
        images = names.by_place.get(place, {}).get(folder, [])
        if len(images) == 1:
            return Assigned(images[0], label, Variant(kind_of(label.words.role_folder), "", pattern))
    return None


def places_of(picture: PictureFile) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield where a picture may have its partner: split and sub-folders, with what is dropped of them for that."""
    words = picture.words
    split = words.split or ""
    rest = tuple(map(looks, words.rest))
    yield "", ("split", split, *rest)
    if rest:
        yield rest[-1], ("split", split, *rest[:-1])
        yield rest[0], ("split", split, *rest[1:])
    yield "", ("any", *rest)
    if rest:
        yield rest[-1], ("any", *rest[:-1])
        yield "/".join(rest), ("any",)


def _folder_key(picture: PictureFile) -> tuple[str, ...]:
    return (picture.words.split or "", *map(looks, picture.words.rest))


def _inner_places(stem: str) -> Iterator[tuple[int, int]]:
    """Yield where a name may stand in a stem, the longest first."""
    for length in range(len(stem), 0, -1):
        for begin in range(len(stem) - length + 1):
            end = begin + length
            if not _is_cut(stem, begin, length) and not _is_cut(stem, end, length):
                yield begin, end


def _is_cut(stem: str, place: int, length: int) -> bool:
    """Whether a number, or for a name of this length a word, would be cut in two at a place."""
    if place in (0, len(stem)):
        return False
    before, behind = stem[place - 1], stem[place]
    if before.isdigit() and behind.isdigit():
        return True
    return length < MIN_INNER_NAME and before.isalpha() and behind.isalpha()


def _without_chance(assigned: Sequence[Assigned]) -> Iterator[Assigned]:
    """Yield all but what a pattern pairs that fits one file alone, where others fit many: a name in it by chance."""
    counts = Counter(entry.variant for entry in assigned)
    most = max(counts.values(), default=0)
    for entry in assigned:
        if counts[entry.variant] > 1 or most < 4 or entry.variant.class_name:
            yield entry
