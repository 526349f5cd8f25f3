"""What to say where images and label maps do not pair: what lies there, by what names differ, and the way out."""

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from segdistill.data.file_names import ANY_NAME
from segdistill.data.image_file import LABEL_SUFFIXES, SUFFIXES
from segdistill.data.listing import files_below_folder
from segdistill.data.name_differences import find_differences
from segdistill.errors import DataError
from segdistill.wording import MAX_LISTED, counted, listed

PAIR_ADVICE = "Each image needs a label map of the same name, such as a.jpg and a.png."
DRAWN = frozenset({".json"})
"""Endings of files from which `data init` draws label maps."""
CONVERTIBLE = frozenset(
    {".jp2", ".j2k", ".heic", ".heif", ".avif", ".gif", ".npy", ".tga", ".ppm", ".pgm", ".dng", ".exr"}
)
"""Endings of pictures that are not read."""
MIN_EXPLAINED_SHARE = 0.5
"""Share of the files without a partner that one difference of names has to explain."""


class Side(NamedTuple):
    """The images or the label maps that have no partner."""

    path: Path
    """Folder that was searched, or a list."""
    names: Sequence[str]
    """Files without a partner, relative to that folder."""


def unpaired_error(images: Side, labels: Side, *, pairs: int) -> DataError:
    """Return the error about images and label maps without partner, at least one of one kind, beside some pairs."""
    what = [sentence for sentence in (_lonely(images, labels.path), _lonely(labels, images.path)) if sentence]
    what += [*_passed_over(images.path, SUFFIXES), *_passed_over(labels.path, LABEL_SUFFIXES, images.path)]
    advice = [*_difference(images, labels), *_drawing(labels.path)]
    if pairs and not labels.names:
        advice.append(
            f'{PAIR_ADVICE} Where some are not labeled yet, unlabeled = "leave-out" below `labels` leaves them out; '
            '"use" in [train] mixes them in as unlabeled images.'
        )
    return DataError("\n".join(what), "\n".join(advice) or PAIR_ADVICE)


def no_images_error(path: Path) -> DataError:
    """Return the error about a folder, or a list, in which no image was found."""
    passed_over = [*_passed_over(path, SUFFIXES)]
    endings = ", ".join(sorted(SUFFIXES))
    return DataError(
        "\n".join([f"{path} has no images.", *passed_over]),
        f"Give a folder with files ({endings}), or a list of names, one per line.",
    )


def unread_files(folder: Path, known: Iterable[str]) -> Counter[str]:
    """Return how many files of each other ending lie in a folder and below it; nothing hidden counts."""
    known = frozenset(known)
    endings = Counter[str]()
    if folder.is_dir():
        for file in files_below_folder(folder):
            ending = file.suffix.lower()
            if ending and ending not in known:
                endings[ending] += 1
    return endings


def describe_unread(folder: Path, known: Iterable[str]) -> str:
    """Return a sentence about the files of other endings in a folder, with a blank before it; empty where are none."""
    unread = unread_files(folder, known)
    return f" It has {_kinds(unread)}, which are not read." if unread else ""


def _kinds(unread: Counter[str]) -> str:
    return listed([counted(count, f"{ending} file") for ending, count in unread.most_common(MAX_LISTED)])


def _lonely(side: Side, partners: Path) -> str:
    if not side.names:
        return ""
    names = sorted(map(os.path.basename, side.names))
    return f"Files in {side.path} without a partner of the same name in {partners} ({len(names)}): {listed(names)}."


def _passed_over(folder: Path, known: Iterable[str], *others: Path) -> Iterator[str]:
    """Yield a sentence about files that were passed over for their ending; of one folder, once."""
    if folder in others:
        return
    unread = unread_files(folder, known)
    if unread:
        yield f"Not read in {folder}: {_kinds(unread)}."
        pictures = sorted(unread.keys() & CONVERTIBLE)
        if pictures:
            yield f"Save {' and '.join(pictures)} as PNG to have them read."


def _difference(images: Side, labels: Side) -> Iterator[str]:
    """Yield the patterns that would pair most of the files; or that there are several label maps for each image."""
    stems = [[str(ANY_NAME.shared_part(name)) for name in side.names] for side in (images, labels)]
    found = [one for one in find_differences(*stems) if one.images >= MIN_EXPLAINED_SHARE * len(images.names) > 0]
    if not found:
        if images.names and len(labels.names) >= 2 * len(images.names):
            yield (
                f"There are {len(labels.names)} label maps for {len(images.names)} images. Masks of one class each "
                f"must be merged to one label map per image: {init_command(images.path)} does that where their names "
                "hold the images' names."
            )
        return
    best = found[0]
    if sum(1 for one in found if one.images == best.images and one.image_pattern == best.image_pattern) > 1:
        patterns = list(dict.fromkeys(one.label_pattern for one in found if one.image_pattern == best.image_pattern))
        yield (
            f"Several label maps have an image's name in theirs: {listed(patterns)}. If each is a class, "
            f"{init_command(images.path)} merges them; if one is the label map, name it: "
            f'label_pattern = "{best.label_pattern}" in the data.toml.'
        )
        return
    keys = [f'label_pattern = "{best.label_pattern}"']
    if best.image_pattern != "*":
        keys.insert(0, f'image_pattern = "{best.image_pattern}"')
    yield f"The names differ by a pattern. Write it below `labels` in the data.toml: {' and '.join(keys)}"


def _drawing(folder: Path) -> Iterator[str]:
    if unread_files(folder, LABEL_SUFFIXES).keys() & DRAWN:
        yield f"Labels must be images. {init_command(folder)} draws the shapes in .json files."


def init_command(folder: Path) -> str:
    """Return the command that looks at the folder above the images or the labels."""
    return f"`segdistill data init {shlex.quote(str(folder.parent))} --out data.toml`"
