"""Label maps drawn from shapes: polygons, with holes, and run-length masks; where they overlap, no shape is lost.

Polygons are filled as COCO's own tools fill them: a pixel belongs to one where its center lies inside.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from segdistill.data.base import Pixels
from segdistill.errors import DataError

Mask = npt.NDArray[np.bool_]
Ring = Sequence[float]
"""x and y of each corner in turn, in pixels from the upper left corner of the image."""
MIN_RING = 6
"""Numbers of the smallest polygon, three corners."""
MAX_OUTSIDE = 2
"""Sides of the image by which a corner may lie outside of it: of one that is further out nothing is meant."""
MAX_SIDE = 65535
CIRCLE_CORNERS = 72


@dataclass(frozen=True, eq=False)
class Shape:
    """An area of one class."""

    class_id: int
    """Id in the label map."""
    mask: Mask
    """(H, W)."""


def draw_shapes(height: int, width: int, shapes: Iterable[Shape], *, small_on_top: bool) -> Pixels:
    """Return the label map (H, W) of shapes, 0 where there is none.

    Args:
        height: of the image.
        width: of the image.
        shapes: in the order in which they are drawn.
        small_on_top: draw the large ones first, whatever their order, for formats whose order means nothing. In any
            case a shape that later ones hide entirely is drawn on top of them: somebody drew it to be seen.
    """
    ordered = [shape for shape in shapes if shape.mask.any()]
    if small_on_top:
        ordered.sort(key=lambda shape: -int(shape.mask.sum()))
    label = np.zeros((height, width), np.uint8)
    owner = np.full((height, width), -1, np.int32)
    for number, shape in enumerate(ordered):
        owner[shape.mask] = number
        label[shape.mask] = shape.class_id
    seen = set(np.unique(owner).tolist())
    hidden = [shape for number, shape in enumerate(ordered) if number not in seen]
    for shape in sorted(hidden, key=lambda shape: -int(shape.mask.sum())):
        label[shape.mask] = shape.class_id
    return label


def polygon_mask(rings: Sequence[Ring], height: int, width: int, where: str) -> Mask:
    """Return the area (H, W) of polygons: all parts together; a ring that lies inside another one is a hole in it.

    Raises:
        DataError: if a ring is none, naming `where` it is.
    """
    parts = [_ring_mask(ring, height, width, where) for ring in rings]
    parts.sort(key=lambda part: -int(part.sum()))
    area = np.zeros((height, width), np.bool_)
    for part in parts:
        # Together with the outer one, an inner ring would be of no effect: only as a hole it means something.
        is_hole = bool(part.any()) and bool(area[part].all())
        area = area & ~part if is_hole else area | part
    return area


def circle_ring(center: tuple[float, float], edge: tuple[float, float]) -> list[float]:
    """Return a circle as a polygon, from its center and a point on its edge."""
    radius = math.dist(center, edge)
    ring: list[float] = []
    for corner in range(CIRCLE_CORNERS):
        angle = 2 * math.pi * corner / CIRCLE_CORNERS
        ring += (center[0] + radius * math.cos(angle), center[1] + radius * math.sin(angle))
    return ring


def run_length_mask(counts: object, height: int, width: int, where: str) -> Mask:
    """Return the area (H, W) of COCO's run lengths: a list of numbers, or the text that they are packed into.

    Raises:
        DataError: if they are not those of a mask of this size, naming `where` they are.
    """
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and 0 <= run <= height * width for run in runs):
        raise DataError(f"{where}: run lengths are damaged.", "Export the annotations again.")
    if sum(runs) != height * width:
        raise DataError(
            f"{where}: run lengths are {sum(runs)} pixels, the image has {height * width}.",
            "Export the annotations again.",
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def check_size(height: object, width: object, where: str) -> tuple[int, int]:
    """Return height and width of an image as a file names them.

    Raises:
        DataError: if they are none.
    """
    for side in (height, width):
        if not isinstance(side, int) or not 0 < side <= MAX_SIDE:
            raise DataError(f"{where}: the size of the image is missing, or none.", "Export the annotations again.")
    assert isinstance(height, int)
    assert isinstance(width, int)
    return height, width


def _ring_mask(ring: Ring, height: int, width: int, where: str) -> Mask:
    if len(ring) < MIN_RING or len(ring) % 2 or not all(isinstance(value, int | float) for value in ring):
        raise DataError(f"{where}: a polygon has no three corners.", "Delete it, and export the annotations again.")
    corners = np.array(ring, np.float64).reshape(-1, 2)
    limits = np.array([width, height]) * (1 + MAX_OUTSIDE)
    if not (np.isfinite(corners).all() and (np.abs(corners) <= limits).all()):
        raise DataError(
            f"{where}: a polygon lies far outside of the image.", "Delete it, and export the annotations again."
        )
    (packed,) = coco_mask.frPyObjects([corners.ravel().tolist()], height, width)
    return run_length_mask(packed["counts"].decode(), height, width, where)


def _unpacked(text: str) -> list[int] | None:
    """Return the run lengths that COCO packs into a text: six bits per character, each run less the one but one before.

    Returns None where the text is none.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            return None
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = shift = 0
    return runs if shift == 0 else None
