"""Which of several kinds of label maps to take, and whether they are masks of one class each, to be merged."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segdistill.data.discovery.annotations import AnnotatedImage
from segdistill.data.discovery.assignment import Assigned, Assignment, Variant
from segdistill.data.discovery.drawing import Mask, Shape, draw_shapes
from segdistill.data.discovery.inventory import PictureFile
from segdistill.data.file_names import STAR, looks
from segdistill.data.image import rgb_and_alpha
from segdistill.data.image_file import LABEL_FORMATS, is_jpeg, open_image
from segdistill.data.label_map import decode_label
from segdistill.errors import DataError
from segdistill.wording import counted, listed

SAMPLED_MASKS = 8
"""Files of a kind that are looked into, to tell masks of one class."""
FOREGROUND = "foreground"
"""Name of a class that nothing names."""
PREFERRED = ("labelids", "labels", "label", "masks", "mask")
"""Words that tell the label maps for training from others of the same images."""


@dataclass(frozen=True)
class LabelChoice:
    """The label map of each image, in a file or to be merged from masks."""

    pairs: tuple[Assigned, ...] = ()
    """Images with the label maps that are there; none where they are merged."""
    class_name: str = ""
    """Class that the names of the label maps have, where all are of one kind: "crack" of "*_crack"."""
    merged: tuple[AnnotatedImage, ...] = ()
    """Images whose label map is drawn from masks of one class each."""
    classes: tuple[str, ...] = ()
    """Their classes, without background."""
    notes: tuple[str, ...] = field(default=())


def choose_labels(root: Path, assignment: Assignment) -> LabelChoice:
    """Return what the label maps of the images are.

    Raises:
        DataError: if a mask cannot be read, or several are there for an image and it cannot be told which one counts.
    """
    variants = assignment.variants()
    plain = {variant: entries for variant, entries in variants.items() if not variant.is_derived}
    derived = [variant for variant in variants if variant.is_derived] if plain else []
    plain = plain or variants
    notes = []
    if derived:
        names = [_shown(variant) for variant in derived]
        notes.append(f"Files whose names say that they are no label maps, which are left out: {listed(names)}.")
    by_image = _by_image([entry for entries in plain.values() for entry in entries])
    has_several = any(len(entries) > 1 for entries in by_image.values())
    class_names = _class_names([*plain])
    may_be_masks = has_several or len(set(class_names.values())) > 1
    if may_be_masks and all(_are_masks(root, entries) for entries in plain.values()):
        return _merged(root, by_image, class_names, notes)
    if not has_several and len(set(class_names.values())) == 1:
        entries = [entry for one in plain.values() for entry in one]
        return LabelChoice(pairs=tuple(sorted(entries)), class_name=_hint(entries[0]), notes=tuple(notes))
    chosen = _preferred(plain)
    others = [_shown(variant) for variant in plain if variant != chosen]
    if others:
        notes.append(f"Label maps are {_shown(chosen)}; other files of the same images are left out: {listed(others)}.")
    entries = plain[chosen]
    twice = [image.path for image, found in _by_image(entries).items() if len(found) > 1]
    if twice:
        raise DataError(
            f"Images with several label maps in {root} ({len(twice)}): {listed(twice)}.",
            "Leave one for each image; or masks of two values, one for each class, which are merged.",
        )
    return LabelChoice(pairs=tuple(sorted(entries)), class_name=_hint(entries[0]), notes=tuple(notes))


def _by_image(entries: Sequence[Assigned]) -> dict[PictureFile, list[Assigned]]:
    found: dict[PictureFile, list[Assigned]] = {}
    for entry in entries:
        found.setdefault(entry.image, []).append(entry)
    return found


def _hint(entry: Assigned) -> str:
    """Return the class that the names of label maps of one kind have: "crack" of "*_crack" or of the folder crack/.

    What is left of the name of the folder of all label maps, Task1_masks, is none.
    """
    folders = {looks(folder) for folder in entry.label.folder.split("/")}
    variant = entry.variant if entry.variant.dropped in folders else entry.variant._replace(dropped="")
    return variant.class_name


def _class_names(variants: Sequence[Variant]) -> dict[Variant, str]:
    """Return the class that each kind of label maps is of: what its name says and not all of them say."""
    words = {variant: variant.class_words for variant in variants}
    if len(variants) == 1:
        return {variant: "_".join(found) for variant, found in words.items()}
    if len({(variant.dropped, variant.pattern) for variant in variants}) > 1:
        words = {
            variant: [word for word in re.findall(r"[^\W_]+", variant.dropped) if not word.isdigit()] + found
            if not variant.folder and variant.pattern != STAR
            else found
            for variant, found in words.items()
        }
    common = set.intersection(*map(set, words.values()))
    return {variant: "_".join(word for word in found if word not in common) for variant, found in words.items()}


def _shown(variant: Variant) -> str:
    """Return a kind of label maps as people would write it."""
    return "/".join(
        part for part in (variant.folder, variant.dropped if variant.folder else "", variant.pattern) if part
    )


def _preferred(variants: Mapping[Variant, Sequence[Assigned]]) -> Variant:
    """Return the kind with the most label maps, of those the one whose name says it best."""
    most = max(map(len, variants.values()))

    def rank(variant: Variant) -> tuple[int, str]:
        text = _shown(variant).casefold()
        return (next((place for place, word in enumerate(PREFERRED) if word in text), len(PREFERRED)), text)

    return min((variant for variant, entries in variants.items() if len(entries) == most), key=rank)


def _are_masks(root: Path, entries: Sequence[Assigned]) -> bool:
    """Whether all of a few label maps have two values at most."""
    sample = entries[:: max(1, len(entries) // SAMPLED_MASKS)]
    return all(len(np.unique(_levels(root / entry.label.path))) <= 2 for entry in sample)


def _merged(
    root: Path,
    by_image: Mapping[PictureFile, Sequence[Assigned]],
    class_names: Mapping[Variant, str],
    notes: Sequence[str],
) -> LabelChoice:
    """Return label maps that are drawn of all masks of each image."""
    named = {variant: name or FOREGROUND for variant, name in class_names.items()}
    classes = sorted(set(named.values()))
    images = []
    for image, entries in sorted(by_image.items()):
        masks = [(named[entry.variant], root / entry.label.path) for entry in entries]
        size = _levels(masks[0][1]).shape
        images.append(AnnotatedImage(image.path, (size[0], size[1]), partial(_draw, masks=masks), image.words.split))
    count = sum(map(len, by_image.values()))
    note = f"{counted(count, 'mask')} of one class each are merged to {counted(len(images), 'label map')}."
    return LabelChoice(merged=tuple(images), classes=tuple(classes), notes=(*notes, note))


def _draw(ids: dict[str, int], *, masks: Sequence[tuple[str, Path]]) -> npt.NDArray[np.uint8]:
    """Return the label map of an image's masks; of two classes in one pixel, that with the smaller mask counts."""
    areas: dict[str, Mask] = {}
    for name, path in masks:
        levels = _levels(path)
        area = levels > _threshold(levels)
        first = next(iter(areas.values()), area)
        if first.shape != area.shape:
            raise _other_size(path, area, first)
        areas[name] = area | areas[name] if name in areas else area
    shapes = [Shape(ids[name], area) for name, area in areas.items()]
    height, width = shapes[0].mask.shape
    return draw_shapes(height, width, shapes, small_on_top=True)


def _levels(path: Path) -> npt.NDArray[np.uint8 | np.uint16]:
    """Return how much each pixel (H, W) of a mask belongs to it."""
    with open_image(path, LABEL_FORMATS) as file:
        if file.mode in ("P", "RGB", "RGBA", "LA", "PA", "CMYK") or is_jpeg(file):
            pixels, alpha = rgb_and_alpha(file)
            if alpha is not None and alpha.min() != alpha.max():
                return alpha
            brightest: npt.NDArray[np.uint8] = pixels.max(axis=2)
            return brightest
    return decode_label(path).ids


def _threshold(levels: npt.NDArray[np.uint8 | np.uint16]) -> float:
    """Return the level above which a pixel belongs to a mask: half of what white is in it, 1 or 255."""
    return float(levels.max(initial=0)) / 2


def _other_size(path: Path, area: Mask, first: Mask) -> DataError:
    return DataError(
        f"{path} has {area.shape[1]}x{area.shape[0]} pixels, another mask of its image has "
        f"{first.shape[1]}x{first.shape[0]}.",
        "Export the masks of an image in one size.",
    )
