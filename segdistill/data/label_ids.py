"""Ids in label maps: which ones a file uses, with their pixels and colors, and what a split has of them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segdistill.data.base import Ids, Pixels, StoredLabel
from segdistill.types import IGNORE

NO_COLOR = -1
"""Channel of an id that no palette has a color for."""


class StoredIds(NamedTuple):
    """Ids that a label map holds, without its transparent pixels."""

    name: str
    """File of the label map."""
    used: npt.NDArray[np.intp]
    """(N,) ids, ascending."""
    pixels: npt.NDArray[np.int64]
    """(N,) numbers of pixels."""
    classes: npt.NDArray[np.int16]
    """(N,) classes of the ids, or IGNORE."""
    colors: npt.NDArray[np.int16] | None
    """(N, 3) RGB in the file's palette, -1 beyond its end; None where it has none."""


def stored_ids(label: StoredLabel | None) -> StoredIds | None:
    """Count the ids of a label map; None where the file holds colors, or there is none."""
    if label is None or label.colored or label.classes is None:
        return None
    visible = None
    if label.transparent is not None:
        visible = (~label.transparent).astype(np.uint8)
    counts = histogram(label.ids, visible)
    used = np.flatnonzero(counts)
    colors = None
    if label.palette is not None:
        # A palette may end before the largest id, and one of a damaged file may be longer than 256.
        table = np.full((256, 3), NO_COLOR, np.int16)
        table[: len(label.palette)] = label.palette[:256]
        colors = table[used]
    return StoredIds(label.name, used, counts[used], classes=label.classes[used], colors=colors)


def histogram(ids: Ids, where: Pixels | None = None) -> npt.NDArray[np.int64]:
    """Count each number of an array (H, W), where a mask is not 0; return (256,) or, for 16 bits, (65536,).

    In float32, which is exact up to 16 million pixels of one number; np.bincount would copy the array as int64.
    """
    size = 256 if ids.dtype == np.uint8 else 1 << 16
    counts = cv2.calcHist([np.ascontiguousarray(ids)], [0], where, [size], [0, size])
    return counts.ravel().astype(np.int64)


@dataclass
class IdCounts:
    """Ids of a split, by what they mean."""

    classes: dict[int, int] = field(default_factory=dict)
    """Class of each id that is there."""
    ignored: Counter[int] = field(default_factory=Counter)
    """Pixels of each id that counts nowhere."""

    def add(self, ids: StoredIds) -> None:
        """Count a label map's."""
        for id_, pixels, index in zip(ids.used.tolist(), ids.pixels.tolist(), ids.classes.tolist(), strict=True):
            if index == IGNORE:
                self.ignored[id_] += pixels
            else:
                self.classes[id_] = index
