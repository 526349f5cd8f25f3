"""What annotation files in JSON come to: images with shapes, as yet without ids; common to all formats."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags

from segdistill.data.image_file import open_image
from segdistill.errors import DataError
from segdistill.types import IGNORE

BACKGROUND_NAMES = frozenset({"background", "_background_", "__background__", "bg"})
IGNORED_NAMES = frozenset({"__ignore__", "ignore", "ignored", "void"})
EXCHANGING = range(5, 9)
"""EXIF orientations that exchange the sides of an image."""

Draw = Callable[[dict[str, int]], npt.NDArray[np.uint8]]
"""Draws the label map (H, W), given the id of each class."""


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image with its shapes."""

    image: str
    """Path relative to the folder that is looked at."""
    size: tuple[int, int]
    """Height and width for which the shapes were drawn."""
    draw: Draw
    split: str | None = None
    """Split that the annotation file is of."""


@dataclass
class Annotations:
    """All images of the annotation files in a folder."""

    tool: str
    """Format, for messages."""
    images: list[AnnotatedImage] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    """Names in the order of the ids, without background."""
    notes: list[str] = field(default_factory=list)


def id_of(name: str, ids: Mapping[str, int]) -> int:
    """Return the id in the label maps of a class: 0 for background, IGNORE for what counts nowhere."""
    folded = name.casefold()
    if folded in IGNORED_NAMES:
        return IGNORE
    return 0 if folded in BACKGROUND_NAMES else ids[name]


def check_sizes(root: Path, images: Sequence[AnnotatedImage]) -> None:
    """Refuse images that have another size than their shapes were drawn for.

    Raises:
        DataError: naming the first, or a file that cannot be read.
    """
    for entry in images:
        path = root / entry.image
        with open_image(path) as file:
            height, width = file.height, file.width
            if file.getexif().get(ExifTags.Base.Orientation, 1) in EXCHANGING:
                height, width = width, height
        if (height, width) != entry.size:
            raise DataError(
                f"{path} has {width}x{height} pixels, its shapes were drawn on {entry.size[1]}x{entry.size[0]}.",
                "Export images and annotations together again; an EXIF tag of the image may turn it.",
            )
