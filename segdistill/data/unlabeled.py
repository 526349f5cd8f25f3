"""Folders of images that alone are trained on, without a label, as a data set: a teacher says what is in them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from segdistill.data.base import DataSource, Split
from segdistill.data.folder import image_folder
from segdistill.data.splits import ConcatSplit, SubsetSplit
from segdistill.errors import DataError
from segdistill.wording import counted

NAME = "images"
"""Name of such a data set where there is no other that it is scored on."""
MAX_HELD_BACK = 200
"""Most images that are held back: a teacher has to answer for each of them before the training."""
RUNS = 10
"""Runs of neighbors, evenly spread, in which images are held back."""

Palette = tuple[tuple[int, int, int], ...]


def unlabeled_source(
    folders: Sequence[str], classes: tuple[str, ...], palette: Palette, *, held_back: float
) -> DataSource:
    """Return a data set of images without labels, a part of which is held back for validation.

    Args:
        folders: paths, as `--images` takes them.
        classes: names of what the teacher finds in them.
        palette: their colors.
        held_back: share of the images.

    Raises:
        UsageError: if there is no such folder.
        DataError: if one has no image, or all have only one together.
    """
    images = images_in(folders)
    count = len(images.names)
    if count < 2:
        raise DataError(
            f"{', '.join(folders)} has {counted(count, 'image')}: one is trained on, and another held back.",
            "Give a folder with more images, or several: --images DIR --images DIR.",
        )
    held = list(held_back_indices(count, held_back))
    rest = sorted(set(range(count)) - set(held))
    splits: dict[str, Split] = {
        "train": SubsetSplit(images, tuple(rest), labels=True),
        "val": SubsetSplit(images, tuple(held), labels=True),
    }
    return DataSource(NAME, classes, palette, splits, unlabeled=frozenset(splits))


def with_unlabeled_training(data: DataSource, folders: Sequence[str]) -> DataSource:
    """Return a data set whose labeled val split scores what is trained on images without labels alone.

    Args:
        data: with a val split; its training images are left out.
        folders: paths, as `--images` takes them.

    Raises:
        UsageError: if there is no such folder.
        DataError: if one has no image, or the data has no val split.
    """
    splits = {"train": images_in(folders), "val": data.split("val")}
    # Files are among the images now: a scan reads all of them, and no class need be in their labels.
    return replace(data, splits=splits, unlabeled=frozenset({"train"}), expected=frozenset(), generated=False)


def held_back_indices(images: int, share: float) -> Iterator[int]:
    """Yield which of the images are held back, at least one and never all.

    They are runs of neighbors, evenly spread: frames of one film look alike, and one that lies between two that are
    trained on would tell how well a student remembers.
    """
    held = max(1, min(round(share * images), MAX_HELD_BACK, images - 1))
    runs = min(held, RUNS)
    for run in range(runs):
        end = (run + 1) * images // runs
        count = (run + 1) * held // runs - run * held // runs
        yield from range(end - count, end)


def images_in(folders: Sequence[str]) -> Split:
    """Find the images in folders and below them.

    Raises:
        UsageError: if there is no such folder.
        DataError: if one has no image.
    """
    found = [image_folder(folder, "--images") for folder in folders]
    return found[0] if len(found) == 1 else ConcatSplit(tuple(found))
