"""Everything in a folder and below it, by kind."""

import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from segdistill.data.discovery.words import PathWords, read_folders
from segdistill.data.file_names import split_suffix
from segdistill.data.image_file import LABEL_SUFFIXES
from segdistill.data.listing import files_below_folder
from segdistill.wording import MAX_LISTED, counted, listed

TEXTS = frozenset({".txt", ".csv", ".names", ".lst", ".tsv"})
"""Endings of lists and of tables of classes."""


@dataclass(frozen=True, order=True)
class PictureFile:
    """A file that is called like an image: a photo or a label map."""

    path: str
    """Relative to the folder that is looked at, with "/" between the parts."""

    @property
    def folder(self) -> str:
        """Folder of the file; "." for the one that is looked at."""
        return str(PurePosixPath(self.path).parent)

    @cached_property
    def stem(self) -> str:
        """Name without the ending."""
        return split_suffix(PurePosixPath(self.path).name)[0]

    @property
    def suffix(self) -> str:
        """Ending in lower case."""
        return split_suffix(self.path)[1].lower()

    @cached_property
    def words(self) -> PathWords:
        """What the folders say."""
        return read_folders(PurePosixPath(self.path).parts[:-1])


@dataclass(frozen=True)
class Inventory:
    """Files of a folder that `data init` looks at."""

    root: Path
    pictures: tuple[PictureFile, ...]
    jsons: tuple[Path, ...]
    texts: tuple[Path, ...]
    others: Counter[str]
    """Number of files of each other ending."""

    def summary(self) -> str:
        """Return what lies there, in words."""
        kinds = Counter[str]({f"{ending} file": count for ending, count in self.others.items()})
        for picture in self.pictures:
            kinds[f"{picture.suffix} file"] += 1
        for path in (*self.jsons, *self.texts):
            kinds[f"{path.suffix.lower()} file"] += 1
        return listed([counted(count, kind) for kind, count in kinds.most_common()], MAX_LISTED) or "no files"


def take_inventory(root: Path, leave_out: frozenset[Path] = frozenset()) -> Inventory:
    """Look at all names in a folder and below it.

    Args:
        root: the folder.
        leave_out: absolute paths of folders that are not looked into, as those of label maps that were drawn before.

    Raises:
        DataError: if a folder cannot be read.
    """
    pictures, jsons, texts = [], [], []
    others = Counter[str]()
    is_left_out: dict[Path, bool] = {}
    for path in sorted(files_below_folder(root)):
        folder = path.parent
        if folder not in is_left_out:
            absolute = Path(os.path.abspath(folder))
            is_left_out[folder] = bool(leave_out.intersection([absolute, *absolute.parents]))
        if is_left_out[folder]:
            continue
        ending = path.suffix.lower()
        if ending in LABEL_SUFFIXES:
            pictures.append(PictureFile(path.relative_to(root).as_posix()))
        elif ending == ".json":
            jsons.append(path)
        elif ending in TEXTS:
            texts.append(path)
        elif ending:
            others[ending] += 1
    return Inventory(root, tuple(pictures), tuple(jsons), tuple(texts), others)
