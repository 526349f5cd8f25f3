"""Images that are in a data set more than once, known by the digests of their pixels."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from segdistill.wording import listed

HELD_OUT = {"val", "test"}
"""Splits whose images must be nowhere else: a score on an image that was trained on says little."""


class ImageIdentity(NamedTuple):
    """An image as far as duplicates are concerned: sixteen bytes stand for its pixels."""

    split: str
    name: str
    pixels: bytes
    """Digest of the image's pixels."""
    label: bytes
    """Digest of the label's classes."""


class Twins(NamedTuple):
    """Images that are in two splits, of which one is held out."""

    splits: tuple[str, str]
    names: tuple[str, str]


@dataclass
class Duplicates:
    """Finds images that are there more than once; keeps one digest for each image, whatever their number."""

    first_seen: dict[bytes, ImageIdentity] = field(default_factory=dict)
    """The first image with each digest of pixels."""
    twins: list[Twins] = field(default_factory=list)
    relabeled: list[str] = field(default_factory=list)
    """Pairs of names within a split whose labels differ."""

    def add(self, image: ImageIdentity) -> None:
        """Take an image into account."""
        first = self.first_seen.setdefault(image.pixels, image)
        if first.split != image.split:
            if HELD_OUT & {first.split, image.split}:
                self.twins.append(Twins((first.split, image.split), (first.name, image.name)))
        elif first.label != image.label:
            self.relabeled.append(f"{first.name} = {image.name}")

    def relabeled_warnings(self) -> Iterator[str]:
        """Yield a sentence about images with two labels."""
        if self.relabeled:
            yield (
                f"Images that are twice in a split, with different labels ({len(self.relabeled)}): "
                f"{listed(self.relabeled)}. Remove the one whose label is wrong."
            )

    def twins_warnings(self) -> Iterator[str]:
        """Yield a sentence about images in two splits."""
        if self.twins:
            pairs = [" = ".join(pair.names) for pair in self.twins]
            yield f"Images in two splits ({len(pairs)}): {listed(pairs)}."
