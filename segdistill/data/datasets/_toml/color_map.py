"""Label maps in colors: from a file to the classes that a data.toml's [colors] says its colors are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segdistill.data.base import Pixels, StoredLabel
from segdistill.data.label_map import decode_colors
from segdistill.errors import DataError
from segdistill.wording import MAX_LISTED

CHANNEL_FACTORS = np.array([1 << 16, 1 << 8, 1], np.int32)
"""Factors of red, green and blue in a color's code, which is one number per color."""


@dataclass(frozen=True, eq=False)
class ColorMap:
    """Reads label maps that hold colors, as class indices and IGNORE."""

    codes: npt.NDArray[np.int32]
    """The known colors, 65536 R + 256 G + B, in ascending order."""
    classes: Pixels
    """Their classes, or IGNORE."""

    @classmethod
    def from_table(cls, table: Mapping[int, int]) -> "ColorMap":
        """Make a map of a table from codes to classes."""
        codes = sorted(table)
        return cls(np.array(codes, np.int32), np.array([table[code] for code in codes], np.uint8))

    def __call__(self, path: Path) -> StoredLabel:
        """Read a label map; what is transparent counts nowhere, whatever color is stored beneath.

        Raises:
            DataError: as `read_image`; also for a color that is not known.
        """
        pixels, stored_label = decode_colors(path)
        codes = pixels.astype(np.int32) @ CHANNEL_FACTORS
        # Where a code would be inserted is where it is, if it is there at all; behind the last one there is nothing.
        places = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        is_known = self.codes[places] == codes
        if stored_label.transparent is not None:
            is_known |= stored_label.transparent
        if not is_known.all():
            raise _unknown_colors(codes[~is_known], path)
        return replace(stored_label, ids=self.classes[places])


def color_code(color: tuple[int, int, int]) -> int:
    """Return a color as one number, 65536 R + 256 G + B."""
    red, green, blue = color
    return red << 16 | green << 8 | blue


def _unknown_colors(codes: npt.NDArray[np.int32], path: Path) -> DataError:
    """Return the error about pixels (N,) of colors that have no class, the most frequent colors first."""
    unknown, counts = np.unique(codes, return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[:MAX_LISTED]
    texts = []
    for index in frequent:
        code = int(unknown[index])
        texts.append(f"{code >> 16},{code >> 8 & 255},{code & 255} ({counts[index]} px)")
    more = f" and {len(unknown) - MAX_LISTED} more colors" if len(unknown) > MAX_LISTED else ""
    return DataError(
        f"{path} has colors that [colors] does not have: {', '.join(texts)}{more}.",
        'Add them, as a class or as "ignore". Many that are nearly right come from JPEG or from resizing.',
    )
