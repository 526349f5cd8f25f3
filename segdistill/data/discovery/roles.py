"""Which files of a folder are images and which are label maps.

Folders say it by their names; else the names of the files do, where some are others with something behind; else what is
in a few of them: a label map has few colors, in large areas.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segdistill.data.discovery.inventory import Inventory, PictureFile
from segdistill.data.discovery.words import DERIVED, ROLES, Role, words_of
from segdistill.data.file_names import looks
from segdistill.data.image_file import LABEL_FORMATS, SUFFIXES, is_jpeg, open_image
from segdistill.errors import DataError

SAMPLED_FILES = 4
"""Files of a group that are looked into."""
MAX_LABEL_COLORS = 64
"""Colors of a label map: a photo of any size has more."""
SHRUNK_SIDE = 256
"""Longer side to which a picture is brought, without mixing colors, before its colors are counted."""
LOSSY = frozenset({".jpg", ".jpeg", ".jfif"})
"""Endings of photos, where the same name with another ending is a label map."""


def divide(inventory: Inventory) -> tuple[list[PictureFile], list[PictureFile]]:
    """Return the images and the label maps, as far as that can be told."""
    images, labels = _divide(inventory, trust_folders=True)
    if not images or not labels:  # a folder may be called after the data set: segmentation/a.jpg
        images, labels = _divide(inventory, trust_folders=False)
    return sorted(images), sorted(labels)


def _divide(inventory: Inventory, *, trust_folders: bool) -> tuple[list[PictureFile], list[PictureFile]]:
    images: list[PictureFile] = []
    labels: list[PictureFile] = []
    unclear: list[list[PictureFile]] = []
    for pictures in _by_folder(inventory.pictures):
        role = pictures[0].words.role if trust_folders else None
        inner = [] if role is Role.LABEL else _inner_labels(pictures, words_alone=role is Role.IMAGE)
        if inner:
            labels += inner
            images += [picture for picture in pictures if picture not in set(inner)]
        elif role is None:
            unclear.append(pictures)
        else:
            (labels if role is Role.LABEL else images).extend(pictures)
    images = _without_derived(images)
    # Beside label maps that are known, the other folders have the images; and the other way round.
    implied = bool(images) if bool(images) != bool(labels) else None
    for pictures in unclear:
        if is_derived(pictures[0]) and (images or labels):
            continue
        is_label = _are_labels(inventory.root, pictures) if implied is None else implied
        (labels if is_label else images).extend(pictures)
    return images, labels


def _without_derived(pictures: list[PictureFile]) -> list[PictureFile]:
    """Leave out what was made to look at, such as overlays, where there are other images."""
    plain = [picture for picture in pictures if not is_derived(picture)]
    return plain or pictures


def is_derived(picture: PictureFile) -> bool:
    """Whether a folder of a picture says that it was made of others."""
    words = {word for folder in picture.folder.split("/") for word in words_of(folder)}
    return bool(words & (DERIVED - {"rgb"}))


def _by_folder(pictures: Iterable[PictureFile]) -> Iterable[list[PictureFile]]:
    folders: dict[str, list[PictureFile]] = {}
    for picture in pictures:
        folders.setdefault(picture.folder, []).append(picture)
    return folders.values()


def _inner_labels(pictures: Sequence[PictureFile], *, words_alone: bool) -> list[PictureFile]:
    """Return the label maps of a folder that has the images, too; none where it has files of one kind alone.

    Args:
        pictures: all files of the folder.
        words_alone: only a word that means labels tells them, as the folder's name says that it has images.
    """
    by_name = _named_after_others(pictures, words_alone=words_alone)
    if by_name:
        return by_name
    by_word = [picture for picture in pictures if ROLES[Role.LABEL].intersection(words_of(picture.stem))]
    if by_word and len(by_word) < len(pictures):  # img_1.jpg and gt_1.png, or image.png and mask.png
        return by_word
    stems = Counter(looks(picture.stem) for picture in pictures)
    twice = {stem for stem, count in stems.items() if count == 2}
    if 2 * len(twice) < len(pictures) - len(twice) or not twice:
        return []
    lossless = [picture for picture in pictures if looks(picture.stem) in twice and picture.suffix not in LOSSY]
    return lossless if len(lossless) == len(twice) else []


def _named_after_others(pictures: Sequence[PictureFile], *, words_alone: bool) -> list[PictureFile]:
    """Return the files whose names are those of others in the folder with a usual text added."""
    stems = {looks(picture.stem) for picture in pictures}
    stems |= {looks(picture.stem) + picture.suffix for picture in pictures}
    added = Counter[str]()
    found: dict[PictureFile, str] = {}
    for picture in pictures:
        text = _added_text(looks(picture.stem), stems)
        if text:
            found[picture] = text
            added[text] += 1
    bases = len(pictures) - len(found)
    label_words = ROLES[Role.LABEL]
    kept = {text for text in added if label_words.intersection(words_of(text)) or text in SUFFIXES}
    if not words_alone:
        kept |= {text for text, count in added.items() if 2 * count >= bases and not text.isalnum()}
        if kept:  # masks of several classes: not all images have each of them
            kept |= {text for text in added if not text.isalnum()}
    return [picture for picture, text in found.items() if text in kept]


def _added_text(stem: str, stems: Collection[str]) -> str:
    """Return what a stem has more than the longest other one that it begins or ends with; empty where there is none."""
    for length in range(len(stem) - 1, 0, -1):
        begin, end = stem[:length], stem[length:]
        if begin in stems and not (begin[-1].isdigit() and end[0].isdigit()):
            return end
        begin, end = stem[:-length], stem[-length:]
        if end in stems and not (begin[-1].isdigit() and end[0].isdigit()):
            return begin
    return ""


def _are_labels(root: Path, pictures: Sequence[PictureFile]) -> bool:
    """Whether most of a few files look like label maps."""
    sample = pictures[:: max(1, len(pictures) // SAMPLED_FILES)][:SAMPLED_FILES]
    votes = [looks_like_labels(root / picture.path) for picture in sample]
    return 2 * sum(votes) > len(votes)


def looks_like_labels(path: Path) -> bool:
    """Whether a picture has few colors; False where it cannot be read."""
    try:
        with open_image(path, LABEL_FORMATS) as file:
            if is_jpeg(file):
                return False
            pixels = np.asarray(file if file.mode in ("P", "L", "I", "F", "1") or "16" in file.mode else _rgb(file))
    except DataError:
        return False
    step = max(1, max(pixels.shape[:2]) // SHRUNK_SIDE)
    probed = pixels[::step, ::step].reshape(-1, *pixels.shape[2:])
    return len(np.unique(probed, axis=0)) <= MAX_LABEL_COLORS


def _rgb(file: Image.Image) -> Image.Image:
    return file.convert("RGB")
