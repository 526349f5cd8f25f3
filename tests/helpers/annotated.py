"""Folders as annotation tools export them: small photos, and label maps of three classes in rectangles."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
SIZE = (32, 48)
COLORS = np.array([(0, 0, 0), (128, 64, 128), (0, 200, 0)], np.uint8)


def photo(number: int) -> Pixels:
    return np.random.default_rng(1000 + number).integers(0, 256, (*SIZE, 3), np.uint8)


def label(number: int, values: Sequence[int] = (0, 1, 2)) -> Pixels:
    """Return rectangles of the values: the first all around, each further one in a place of its own."""
    ids = np.full(SIZE, values[0], np.uint8)
    for place, value in enumerate(values[1:]):
        ids[4 + number % 4 : 20, 4 + 12 * place : 14 + 12 * place] = value
    return ids


def save(path: Path, pixels: npt.NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def pairs(
    root: Path,
    image: str,
    label_name: str,
    count: int = 10,
    first: int = 0,
    make: Callable[[int], npt.NDArray[np.generic]] = label,
) -> None:
    """Write pairs, `{}` in the names being their numbers."""
    for number in range(first, first + count):
        save(root / image.format(f"{number:03}"), photo(number))
        save(root / label_name.format(f"{number:03}"), make(number))


def colored(number: int) -> Pixels:
    return COLORS[label(number)]


def binary(number: int) -> Pixels:
    return label(number, (0, 255))


def labelme(shapes: Sequence[tuple[str, Any]], image: str) -> str:
    """Return a file of labelme's with polygons, or shapes of other kinds given as tables."""
    entries = []
    for name, points in shapes:
        entry = points if isinstance(points, dict) else {"points": points, "shape_type": "polygon"}
        entries.append({"label": name, "group_id": None, "flags": {}, **entry})
    table: dict[str, Any] = {"version": "5.4.1", "flags": {}, "shapes": entries, "imagePath": image, "imageData": None}
    return json.dumps(table | {"imageHeight": SIZE[0], "imageWidth": SIZE[1]})


def coco(images: Sequence[str], annotations: Sequence[tuple[int, int, Any]], names: Sequence[str]) -> str:
    """Return a file of COCO's: annotations are the image's number, the category's, and the segmentation."""
    return json.dumps(
        {
            "images": [
                {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
                for number, name in enumerate(images)
            ],
            "annotations": [
                {"id": number, "image_id": image, "category_id": category, "segmentation": shape, "iscrowd": 0}
                for number, (image, category, shape) in enumerate(annotations)
            ],
            "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        }
    )


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def ring(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [value for corner in box(left, top, right, bottom) for value in corner]
