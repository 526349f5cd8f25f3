"""COCO's files: one JSON for many images, with polygons or run-length masks in no order."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segdistill.data.discovery.annotations import (
    BACKGROUND_NAMES,
    IGNORED_NAMES,
    AnnotatedImage,
    Annotations,
    id_of,
)
from segdistill.data.discovery.drawing import Mask, Shape, check_size, draw_shapes, polygon_mask, run_length_mask
from segdistill.data.discovery.inventory import Inventory
from segdistill.data.discovery.words import split_of, words_of
from segdistill.data.name_list import FileFinder
from segdistill.errors import DataError
from segdistill.storage.files import read_file
from segdistill.wording import counted, listed

MAX_COCO_BYTES = 1 << 30
"""Bytes of an annotation file: COCO's own largest has 470 million."""


@dataclass(frozen=True)
class CocoFile:
    """A file in COCO's format."""

    path: Path
    table: dict[str, Any]

    @property
    def categories(self) -> dict[int, str]:
        """Name of each category."""
        return {entry["id"]: str(entry["name"]).strip() for entry in self.table["categories"]}


def read_coco(path: Path) -> CocoFile | None:
    """Return a file in COCO's format; None where a JSON file is something else."""
    try:
        table = json.loads(read_file(path, MAX_COCO_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(table, dict):
        return None
    for key, wanted in (("images", {"id", "file_name"}), ("annotations", {"image_id"}), ("categories", {"id", "name"})):
        entries = table.get(key)
        if not isinstance(entries, list):
            return None
        if not all(isinstance(entry, dict) and wanted <= entry.keys() for entry in entries):
            return None
    if not any("segmentation" in entry or "bbox" in entry for entry in table["annotations"]):
        return None
    return CocoFile(path, table)


def coco_annotations(inventory: Inventory, files: Sequence[CocoFile], finder: FileFinder) -> Annotations:
    """Return the images of COCO's files.

    Raises:
        DataError: if images are not there, no annotation has a shape, or one is damaged.
    """
    found = Annotations("COCO")
    used = Counter[str]()
    boxes = 0
    missing: list[str] = []
    for file in files:
        categories = file.categories
        by_image: dict[Any, list[dict[str, Any]]] = {}
        for annotation in file.table["annotations"]:
            if not annotation.get("segmentation"):
                boxes += 1
                continue
            name = categories.get(annotation.get("category_id"))
            if name is None:
                raise DataError(f"{file.path} has an annotation without a category.", "Export the annotations again.")
            used[name] += 1
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        for entry in file.table["images"]:
            image = _image_of(inventory.root, file, str(entry["file_name"]), finder)
            if image is None:
                missing.append(str(entry["file_name"]))
                continue
            size = check_size(entry.get("height"), entry.get("width"), f"{file.path}, {entry['file_name']}")
            draw = partial(_draw, file=file, annotations=by_image.get(entry["id"], []), size=size)
            found.images.append(AnnotatedImage(image, size, draw, _split(inventory.root, file.path)))
    _check(inventory.root, files, missing, used, boxes)
    _add_classes(found, files, used, boxes)
    return found


def _check(root: Path, files: Sequence[CocoFile], missing: Sequence[str], used: Counter[str], boxes: int) -> None:
    names = listed([str(file.path.relative_to(root)) for file in files])
    if missing:
        raise DataError(
            f"Images that {names} has annotations of, and that are not in {root} ({len(missing)}): {listed(missing)}.",
            "Put the images there, under these names.",
        )
    if not used:
        raise DataError(
            f"{names} has no shapes: {counted(boxes, 'annotation is a box', 'annotations are boxes')}.",
            "Segmentation needs polygons or masks. Export them if there are any.",
        )


def _add_classes(found: Annotations, files: Sequence[CocoFile], used: Counter[str], boxes: int) -> None:
    order: dict[str, int] = {}
    for file in files:
        for id_, name in file.categories.items():
            order.setdefault(name, id_)
    found.classes = sorted(
        (name for name in used if name.casefold() not in BACKGROUND_NAMES | IGNORED_NAMES), key=lambda name: order[name]
    )
    unused = [name for name in order if not used[name] and name.casefold() not in BACKGROUND_NAMES]
    if unused:
        found.notes.append(f"Categories without a shape, which are left out ({len(unused)}): {listed(unused)}.")
    if boxes:
        found.notes.append(f"Annotations that are boxes alone, which are left out: {boxes}.")


def _split(root: Path, path: Path) -> str | None:
    """Return the split that a file is of, as its name or its folder says: instances_val.json, train/_annotations."""
    parts = path.relative_to(root).with_suffix("").parts
    return next((split for part in reversed(parts) if (split := split_of(words_of(part))) is not None), None)


def _image_of(root: Path, file: CocoFile, name: str, finder: FileFinder) -> str | None:
    """Return an image: beside the file, or where its name leads, or anywhere else under its name."""
    folder = file.path.parent.relative_to(root)
    split = _split(root, file.path)
    places = [str(folder / name), name]
    if split is not None:  # images/train/0001.jpg and images/val/0001.jpg
        places += [f"{split}/{name}", f"images/{split}/{name}"]
    return next((found for place in places if (found := finder.find(place)) is not None), None)


def _draw(
    ids: dict[str, int], *, file: CocoFile, annotations: Sequence[dict[str, Any]], size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    return draw_shapes(*size, _shapes(ids, file, annotations, size), small_on_top=True)


def _shapes(
    ids: dict[str, int], file: CocoFile, annotations: Sequence[dict[str, Any]], size: tuple[int, int]
) -> Iterator[Shape]:
    categories = file.categories
    for annotation in annotations:
        name = categories[annotation["category_id"]]
        where = f"{file.path}, annotation {annotation.get('id', '')} ({name})"
        yield Shape(id_of(name, ids), _mask(annotation["segmentation"], size, where))


def _mask(segmentation: Any, size: tuple[int, int], where: str) -> Mask:
    if isinstance(segmentation, list):
        rings = segmentation if segmentation and isinstance(segmentation[0], list) else [segmentation]
        return polygon_mask(rings, *size, where)
    if not isinstance(segmentation, dict) or segmentation.get("size") != list(size):
        raise DataError(f"{where}: the mask is of another size than its image.", "Export the annotations again.")
    return run_length_mask(segmentation.get("counts"), *size, where)
