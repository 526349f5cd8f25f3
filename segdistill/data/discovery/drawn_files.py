"""The folder of label maps that are drawn, and nothing else: written whole or not at all."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from segdistill.data.datasets.voc import colors
from segdistill.data.discovery.annotations import AnnotatedImage
from segdistill.data.file_names import split_suffix
from segdistill.errors import UsageError
from segdistill.storage.atomic import write_atomic
from segdistill.storage.write_errors import explain_write_error

MARK = ".drawn-by-segdistill"
"""File that says whose the folder is, so that no folder of somebody's is replaced."""


def check_drawn_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that is there already, unless it is one of ours that may be replaced.

    Raises:
        UsageError: if it must not be written.
    """
    if not folder.exists():
        return
    if not (folder / MARK).is_file():
        raise UsageError(f"{folder} is in the way of the label maps that are drawn.", "Choose another --out.")
    if not overwrite:
        raise UsageError(f"{folder} exists.", "Give --overwrite to draw its label maps anew, or another --out.")


@contextmanager
def drawn_folder(folder: Path) -> Iterator[None]:
    """Make an empty folder for label maps in the place of an older one; delete it again if something fails.

    Raises:
        UsageError: if it cannot be made.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        (folder / MARK).touch()
    except OSError as error:
        raise explain_write_error(error, folder) from None
    try:
        yield
    except BaseException:  # Ctrl-C too must leave nothing half-written
        shutil.rmtree(folder, ignore_errors=True)
        raise


def target_names(images: Sequence[AnnotatedImage]) -> list[str]:
    """Return the label map of each image, below the folder: under the image's path, with its ending if two share it."""
    stems = [split_suffix(image.image)[0] for image in images]
    counts = Counter(stems)
    names = []
    for image, stem in zip(images, stems, strict=True):
        names.append(f"{stem if counts[stem] == 1 else image.image}.png")
    return names


def draw_file(path: Path, image: AnnotatedImage, ids: Mapping[str, int]) -> npt.NDArray[np.uint8]:
    """Draw and write the label map of an image; return it."""
    label = image.draw(dict(ids))
    picture = Image.fromarray(label)
    picture.putpalette(bytes(level for color in colors(range(256)) for level in color))
    content = BytesIO()
    picture.save(content, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.getvalue())
    return label
