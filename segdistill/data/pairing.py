"""Which label map belongs to which image, by their names.

A name is matched with the image's ending in it (a.jpg and a.jpg.png); else as it is; else as a reader sees it, where
only one file on each side looks like that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from segdistill.data.file_names import looks, split_suffix
from segdistill.data.listing import FoundFile


class NamedFile(NamedTuple):
    """A file, and the part of its name that its partner has too."""

    shared: str
    """Path below the folder without the ending, or what a pattern leaves of it."""
    file: FoundFile

    @property
    def with_suffix(self) -> str:
        """The shared part with the file's ending, as some tools name the label map."""
        return self.shared + split_suffix(self.file.name)[1]


class Pair(NamedTuple):
    """An image and its label map."""

    image: NamedFile
    label: NamedFile


@dataclass(frozen=True)
class Pairing:
    """Images and label maps, as far as they belong together."""

    pairs: tuple[Pair, ...]
    """In the order of the images' shared parts."""
    images: tuple[NamedFile, ...]
    """Images without a label map."""
    labels: tuple[NamedFile, ...]
    """Label maps without an image."""
    ambiguous: tuple[str, ...] = ()
    """Names that could be either of several files."""
    by_looks: tuple[Pair, ...] = ()
    """Pairs whose names only look the same."""

    @property
    def is_whole(self) -> bool:
        """Whether there are pairs, and nothing is left over."""
        return bool(self.pairs) and not (self.images or self.labels or self.ambiguous)


def match_names(images: Sequence[NamedFile], labels: Sequence[NamedFile]) -> Pairing:
    """Pair images with label maps by their names."""
    matcher = _Matcher(images, labels)
    # The full name first: where a.jpg and a.png are two images, a.jpg.png is the label map of one of them.
    matcher.match([image.with_suffix for image in images], [label.shared for label in labels])
    matcher.match([image.shared for image in images], [label.shared for label in labels])
    exact = len(matcher.label_of)
    matcher.match([looks(image.with_suffix) for image in images], [looks(label.shared) for label in labels], guess=True)
    matcher.match([looks(image.shared) for image in images], [looks(label.shared) for label in labels], guess=True)
    found = [Pair(images[image], labels[label]) for image, label in matcher.label_of.items()]
    return Pairing(
        pairs=tuple(sorted(found, key=lambda pair: pair.image.shared)),
        images=tuple(image for index, image in enumerate(images) if index not in matcher.label_of),
        labels=tuple(label for index, label in enumerate(labels) if index not in matcher.taken),
        ambiguous=tuple(sorted(matcher.ambiguous)),
        by_looks=tuple(found[exact:]),
    )


class _Matcher:
    """Pairs that were found so far, by the places of their files."""

    def __init__(self, images: Sequence[NamedFile], labels: Sequence[NamedFile]) -> None:
        self.images = images
        self.labels = labels
        self.label_of: dict[int, int] = {}
        self.taken: set[int] = set()
        self.ambiguous: set[str] = set()

    def match(self, image_keys: Sequence[str], label_keys: Sequence[str], *, guess: bool = False) -> None:
        """Pair the files that are left and whose keys are equal; several of one key are ambiguous, or left by a guess.

        Args:
            image_keys: one for each image.
            label_keys: one for each label map.
            guess: leave files without a partner where a key has several.
        """
        labels_by_key = _by_key(label_keys, self.taken)
        images_by_key = _by_key(image_keys, self.label_of)
        for key, image_places in images_by_key.items():
            label_places = labels_by_key.get(key, [])
            if len(image_places) == 1 == len(label_places):
                self.label_of[image_places[0]] = label_places[0]
                self.taken.add(label_places[0])
            elif label_places and not guess:
                self.ambiguous.add(key)


def _by_key(keys: Sequence[str], left_out: Iterable[int]) -> dict[str, list[int]]:
    """Return the places of each key, without some of them."""
    places: dict[str, list[int]] = {}
    left_out = set(left_out)
    for place, key in enumerate(keys):
        if place not in left_out:
            places.setdefault(key, []).append(place)
    return places
