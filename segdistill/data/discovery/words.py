"""What the names of folders say: images or labels, and which split."""

import re
from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """What the files of a folder are."""

    IMAGE = "image"
    LABEL = "label"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ROLES = {
    Role.IMAGE: _words(
        "image images img imgs photo photos picture pictures pic pics rgb input inputs frame frames raw original "
        "originals jpegimages jpeg"
    ),
    Role.LABEL: _words(
        "mask masks label labels annotation annotations annot annots anno annos ann anns gt gts groundtruth truth seg "
        "segs segmentation segmentations segmap segmaps target targets semantic lbl lbls labelmap labelmaps labelids"
    ),
}
SPLIT_WORDS = {
    "train": frozenset({"train", "training", "trn"}),
    "val": frozenset({"val", "valid", "validation", "dev"}),
    "test": frozenset({"test", "testing", "tst"}),
}
FILLERS = _words(
    "class classes png jpg tif 8 bit left fine coarse set data dataset dir folder id ids map maps crop crops ground"
)
"""Words that mean nothing beside those above: leftImg8bit, SegmentationClass, gtFine."""
DERIVED = _words(
    "color colors colour colours colored vis viz visual visualization visualizations overlay overlays preview previews "
    "instance instances instanceids object objects edge edges boundary boundaries depth bbox human rgb panoptic"
)
"""Words in the names of what was made beside label maps, to look at or for other tasks."""
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_a-zA-Z]+")
_JOINED = re.compile(r"(training|train|validation|valid|val|test)([a-z]{2,})")


@dataclass(frozen=True)
class PathWords:
    """What the folders of a path say."""

    role: Role | None
    """That of the last folder that has one."""
    split: str | None
    rest: tuple[str, ...]
    """Folders, or what is left of their names, that say neither: cam1, aachen, road."""
    role_folder: str
    """Name of the folder that the role is from."""


def words_of(name: str) -> list[str]:
    """Return the words of a name in lower case: "trainAnnot_v2" has train, annot, v and 2."""
    words: list[str] = []
    for word in _WORD.findall(name):
        joined = _JOINED.fullmatch(word.lower())
        if joined is not None and (_role_of(joined[2]) is not None or joined[2] in FILLERS):
            words += joined.groups()
        else:
            words.append(word.lower())
    return words


def split_of(words: list[str]) -> str | None:
    """Return the split that a word names; None where none or several do."""
    found = {split for split, known in SPLIT_WORDS.items() if known.intersection(words)}
    return found.pop() if len(found) == 1 else None


def kind_of(folder: str) -> str:
    """Return the name of a folder without what says a split: the same for those of all splits."""
    return "_".join(word for word in words_of(folder) if split_of([word]) is None)


def read_folders(folders: tuple[str, ...]) -> PathWords:
    """Return what the folders of a path say, from the first to the last."""
    role, split, role_folder = None, None, ""
    rest: list[str] = []
    for folder in folders:
        words = words_of(folder)
        here_roles = [found for word in words if (found := _role_of(word)) is not None]
        here_split = split_of(words)
        if here_roles:
            # "semantic_rgb" and "mask_images" are label maps: images alone need no such word
            role = Role.LABEL if Role.LABEL in here_roles else Role.IMAGE
            role_folder = folder
        if here_split is not None and split is None:
            split = here_split
        elif here_split is not None:
            here_split = None
        if not here_roles and here_split is None:
            rest.append(folder)
            continue
        left = [word for word in words if _role_of(word) is None and split_of([word]) is None and word not in FILLERS]
        if left:
            rest.append("_".join(left))
    return PathWords(role, split, tuple(rest), role_folder)


def _role_of(word: str) -> Role | None:
    return next((role for role, known in ROLES.items() if word in known), None)
