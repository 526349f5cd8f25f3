"""The images that a file, a folder or a pattern names."""

import glob
import os
from collections.abc import Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NamedTuple

from segdistill.data import SUFFIXES, images_below
from segdistill.data.missing_partners import describe_unread
from segdistill.errors import DataError, UsageError

MAX_DESCENTS = 2
"""Parts `**` of a pattern, those in a row counted once: time is at most that of listing the tree, times its depth."""


class InputImage(NamedTuple):
    """An image to segment."""

    path: Path
    relative: Path
    """Path from the folder it was found in, which the outputs mirror."""


def find_inputs(source: str, out: Path) -> list[InputImage]:
    """Return the images that `source` names, sorted by path; a link to nothing is one that cannot be read.

    Args:
        source: an image; a folder, with all below it, through links too; or a pattern such as "frames/**/*.png".
        out: where the outputs go: a folder in the source whose images are no inputs.

    Raises:
        UsageError: if there is no such path.
        DataError: if there is no image, or a folder cannot be read.
    """
    path = Path(source)
    if path.is_file():  # first, as the name of a file may look like a pattern
        return [InputImage(path, Path(path.name))]
    if path.is_dir():
        root, files = path, {*images_below(path)}
    elif glob.has_magic(source):
        # The outputs mirror the folders below the last one that the pattern names outright.
        root = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        files = _matches(path)
    else:
        raise UsageError(f"There is no {source}.", "Give an image, a folder, or a pattern in quotes: 'frames/*.png'.")
    images = [file for file in sorted(files) if _is_image(file)]
    inputs = [InputImage(file, file.relative_to(root)) for file in _outside(images, out, root)]
    if not inputs:
        found = describe_unread(path, SUFFIXES) if path.is_dir() else ""
        raise DataError(f"{source} holds no image.{found}", f"Images end in {', '.join(sorted(SUFFIXES))}.")
    return inputs


def _matches(pattern: Path) -> set[Path]:
    """Return what a pattern names, each file once.

    Raises:
        UsageError: if it descends too often: glob goes through a folder in as many ways as its parts can be divided.
    """
    # `**/**` names what `**` does, and takes glob as many times longer as there are folders.
    parts = [part for part, after in pairwise([*pattern.parts, ""]) if not part == after == "**"]
    if parts.count("**") > MAX_DESCENTS:
        raise UsageError(f"{pattern} has more than {MAX_DESCENTS} times '**'.", "Give 'frames/**/*.png', or a folder.")
    return {Path(name) for name in glob.iglob(str(Path(*parts)), recursive=True)}


def _is_image(file: Path) -> bool:
    """Whether a path has the name of an image; one that begins with a dot is some program's own."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and not file.is_dir()


def _outside(images: list[Path], out: Path, root: Path) -> Iterator[Path]:
    """Yield the images that are no earlier outputs: those of a source with the folder of the outputs inside."""
    outputs = out.resolve()
    if root.resolve() not in outputs.parents:  # where source and output are one folder, it cannot be told which are
        yield from images
        return
    for image in images:
        # realpath, as Path.resolve fails on a circle of links
        if outputs not in Path(os.path.realpath(image)).parents:
            yield image
