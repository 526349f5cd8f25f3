"""labelme's files: one JSON for each image, with its shapes in the order in which they lie over each other."""

import base64
import binascii
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from segdistill.data.discovery.annotations import (
    BACKGROUND_NAMES,
    IGNORED_NAMES,
    AnnotatedImage,
    Annotations,
    id_of,
)
from segdistill.data.discovery.drawing import Mask, Shape, check_size, circle_ring, draw_shapes, polygon_mask
from segdistill.data.discovery.inventory import Inventory
from segdistill.data.discovery.words import split_of, words_of
from segdistill.data.name_list import FileFinder
from segdistill.errors import DataError
from segdistill.storage.files import read_file
from segdistill.wording import counted, listed

AREAS = frozenset({"polygon", "rectangle", "circle", "mask", ""})
"""Types of shapes that have an area; points and lines have none."""


@dataclass(frozen=True)
class LabelmeFile:
    """A file of labelme's."""

    path: Path
    table: dict[str, Any]


def read_labelme(path: Path) -> LabelmeFile | None:
    """Return a file of labelme's; None where a JSON file is something else."""
    try:
        table = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(table, dict) or not isinstance(table.get("shapes"), list) or "imagePath" not in table:
        return None
    return LabelmeFile(path, table)


def labelme_annotations(inventory: Inventory, files: Sequence[LabelmeFile], finder: FileFinder) -> Annotations:
    """Return the images of labelme's files.

    Raises:
        DataError: if an image is not there, or a shape is damaged.
    """
    found = Annotations("labelme")
    names = Counter[str]()
    skipped = Counter[str]()
    missing: list[str] = []
    for file in files:
        image = _image_of(inventory.root, file, finder)
        if image is None:
            missing.append(f"{file.path.relative_to(inventory.root)} ({file.table['imagePath']})")
            continue
        for shape in file.table["shapes"]:
            name, kind = _name_and_kind(shape, file.path)
            names[name] += kind in AREAS
            skipped[kind] += kind not in AREAS
        size = check_size(file.table.get("imageHeight"), file.table.get("imageWidth"), str(file.path))
        draw = partial(_draw, file=file, size=size)
        folders = file.path.relative_to(inventory.root).parts[:-1]
        split = split_of([word for folder in folders for word in words_of(folder)])
        found.images.append(AnnotatedImage(image, size, draw, split))
    if missing:
        raise DataError(
            f"Files of labelme's whose image is not in {inventory.root} ({len(missing)}): {listed(missing)}.",
            "Put the images beside them.",
        )
    found.classes = sorted(name for name in names if names[name] and name.casefold() not in _NO_CLASSES)
    if skipped.total():
        kinds = [counted(count, kind) for kind, count in skipped.items() if count]
        found.notes.append(f"Shapes without an area, which are left out: {listed(kinds)}.")
    return found


_NO_CLASSES = BACKGROUND_NAMES | IGNORED_NAMES


def _image_of(root: Path, file: LabelmeFile, finder: FileFinder) -> str | None:
    """Return the image of a file: where it says, beside it, or anywhere else under its name."""
    folder = file.path.parent.relative_to(root)
    named = str(file.table["imagePath"]).replace("\\", "/")
    places = (str(folder / named), named, str(folder / file.path.stem), Path(named).name, file.path.stem)
    return next((found for place in places if (found := finder.find(place)) is not None), None)


def _name_and_kind(shape: Any, path: Path) -> tuple[str, str]:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise DataError(f"{path} has a shape without a label.", "Give it one in labelme.")
    return shape["label"].strip(), str(shape.get("shape_type") or "polygon")


def _draw(ids: dict[str, int], *, file: LabelmeFile, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return draw_shapes(*size, _shapes(ids, file, size), small_on_top=False)


def _shapes(ids: dict[str, int], file: LabelmeFile, size: tuple[int, int]) -> Iterator[Shape]:
    for number, shape in enumerate(file.table["shapes"]):
        name, kind = _name_and_kind(shape, file.path)
        if kind not in AREAS:
            continue
        where = f"{file.path}, shape {number} ({name})"
        yield Shape(id_of(name, ids), _mask(shape, kind, size, where))


def _mask(shape: dict[str, Any], kind: str, size: tuple[int, int], where: str) -> Mask:
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
        if kind == "mask":
            return _stored_mask(shape["mask"], points, size)
        if kind == "rectangle":
            (left, top), (right, bottom) = points[:2]
            ring = [left, top, right, top, right, bottom, left, bottom]
        elif kind == "circle":
            ring = circle_ring(points[0], points[1])
        else:
            ring = [value for point in points for value in point]
    except (KeyError, TypeError, ValueError, IndexError, OSError, binascii.Error):
        raise DataError(f"{where}: the shape is damaged.", "Draw it again in labelme.") from None
    return polygon_mask([ring], *size, where)


def _stored_mask(text: str, points: Sequence[tuple[float, float]], size: tuple[int, int]) -> Mask:
    """Return a mask that labelme stores as a PNG of the part of the image that it covers."""
    with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as picture:
        if picture.width > size[1] or picture.height > size[0]:
            raise ValueError("larger than the image")
        part = np.asarray(picture.convert("L")) > 0
    area = np.zeros(size, np.bool_)
    left, top = (round(value) for value in points[0])
    if left < 0 or top < 0:
        raise ValueError("outside of the image")
    room = area[top : top + part.shape[0], left : left + part.shape[1]]
    room[:] = part[: room.shape[0], : room.shape[1]]
    return area
