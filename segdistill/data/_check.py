"""A look at every file before a run begins, so that no damaged one stops it hours later."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segdistill import distributed
from segdistill.data._base import DataSource, Pixels, Split
from segdistill.errors import DataError
from segdistill.types import IGNORE

MOST = 10
"""Names or sizes in a message."""
ENOUGH = 64
"""Drawn scenes that show the classes' shares."""
HELD_OUT = {"val", "test"}
"""Splits whose images are nowhere else."""
AT_ONCE = 1000
"""Images that wait for a thread: a hundred thousand would take hundreds of megabytes."""


class Twins(NamedTuple):
    """The same image in two splits, of which one is held out."""

    splits: tuple[str, str]
    names: tuple[str, str]


@dataclass(frozen=True, eq=False)
class Census:
    """What some splits hold."""

    pixels: dict[str, npt.NDArray[np.int64]]
    """Per split (C,): the pixels of each class."""
    ignored: dict[str, int]
    """Per split: the pixels that count nowhere."""
    sizes: dict[str, Counter[tuple[int, int]]]
    """Per split: how many images have which height and width."""
    contents: dict[str, str]
    """Per split: a digest of all images' files and of all label maps' ids, in order."""
    twins: tuple[Twins, ...]
    errors: tuple[DataError, ...]
    """One for each pair that cannot be used; the counts leave it out."""
    warnings: tuple[str, ...]

    @property
    def error(self) -> DataError | None:
        """All errors in one, naming up to ten files."""
        if len(self.errors) < 2:
            return self.errors[0] if self.errors else None
        more = f"\n... and {len(self.errors) - MOST} more" if len(self.errors) > MOST else ""
        found = "\n".join(error.what for error in self.errors[:MOST])
        cures = dict.fromkeys(error.fix for error in self.errors[:MOST] if error.fix)
        return DataError(f"{len(self.errors)} pairs cannot be used:\n{found}{more}", "\n".join(cures))

    def sizes_in_words(self) -> str:
        """Return the sizes of all images with their numbers, the frequent ones first."""
        sizes = sum(self.sizes.values(), Counter[tuple[int, int]]()).most_common()
        listed = ", ".join(f"{height}x{width} ({count})" for (height, width), count in sizes[:MOST])
        return f"{listed} and {len(sizes) - MOST} more" if len(sizes) > MOST else listed

    def to_json(self, source: DataSource) -> dict[str, Any]:
        """Return what `data check --json` prints of the data set that was looked at."""
        splits = {
            split: {
                "images": len(source.split(split).names),
                "pixels": dict(zip(source.classes, pixels.tolist(), strict=True)),
                "ignored_pixels": self.ignored[split],
                "sizes": [{"size": size, "images": count} for size, count in self.sizes[split].most_common()],
            }
            for split, pixels in self.pixels.items()
        }
        return {
            "name": source.name,
            "splits": splits,
            "duplicates": [dict(zip(pair.splits, pair.names, strict=True)) for pair in self.twins],
            "errors": [error.what for error in self.errors],
            "warnings": [*source.warnings, *self.warnings],
        }


class _Look(NamedTuple):
    name: str
    stored: bytes  # a digest of its file
    counts: npt.NDArray[np.int64]  # (256,)
    size: tuple[int, int]
    image: bytes  # a digest of its pixels
    label: bytes
    doubtful: bool


def check_files(
    source: DataSource,
    splits: Iterable[str],
    on_image: Callable[[int], None] = lambda count: None,
    at_most: int | None = None,
) -> Census:
    """Take the census of some splits; see `take_census`.

    Raises:
        DataError: naming the files that cannot be used, all of them up to ten.
    """
    census = take_census(source, splits, on_image, at_most)
    if census.error is not None:
        raise census.error
    return census


def take_census(
    source: DataSource,
    splits: Iterable[str],
    on_image: Callable[[int], None] = lambda count: None,
    at_most: int | None = None,
) -> Census:
    """Decode every pair of some splits, in parallel; of generated ones a few, for the counts.

    Args:
        source: the data set.
        splits: names of its splits.
        on_image: called with the number of images done.
        at_most: about how many pairs of a split, evenly spread; all if None.

    Returns:
        What the splits hold, with warnings about classes never seen, images that are in two of them, images that may
        have been turned after their labels were made, and images whose labels are void throughout.
    """
    totals: dict[str, npt.NDArray[np.int64]] = {}
    sizes: dict[str, Counter[tuple[int, int]]] = {}
    errors: list[DataError] = []
    owners: dict[bytes, tuple[str, str]] = {}
    twins = []
    contents: dict[str, str] = {}
    doubtful: list[str] = []
    void: list[str] = []
    with ThreadPoolExecutor(distributed.cores()) as pool:  # Pillow decodes outside the interpreter's lock
        for name in splits:
            split = source.split(name)
            totals[name], sizes[name] = np.zeros(256, np.int64), Counter()
            content = hashlib.sha256()
            enough = at_most or (ENOUGH if source.generated else len(split.names))
            every = max(1, len(split.names) // max(1, enough))
            indices = range(0, len(split.names), every)
            parts = (indices[start : start + AT_ONCE] for start in range(0, len(indices), AT_ONCE))
            for look in (look for part in parts for look in pool.map(partial(_look, split), part)):
                on_image(every)
                if isinstance(look, DataError):
                    errors.append(look)
                    continue
                totals[name] += look.counts
                sizes[name][look.size] += 1
                content.update(look.stored + look.label)
                doubtful += [look.name] if look.doubtful else []
                void += [look.name] if look.counts[IGNORE] == look.size[0] * look.size[1] else []
                owner, twin = owners.setdefault(look.image, (name, look.name))
                if owner != name and HELD_OUT & {owner, name}:
                    twins.append(Twins((owner, name), (twin, look.name)))
            contents[name] = content.hexdigest()
    pixels = {name: total[: len(source.classes)] for name, total in totals.items()}
    warnings = [
        f"No pixel of the {name} split is {source.classes[i]}."
        for name in pixels
        if pixels[name].any()  # an unlabelled split has none
        for i in np.flatnonzero(pixels[name] == 0)
    ]
    if twins:
        warnings.append(f"Images in two splits ({len(twins)}): {_listed([' = '.join(pair.names) for pair in twins])}.")
    if doubtful:
        warnings.append(
            f"Images that an EXIF tag turns or mirrors ({len(doubtful)}), whose labels must have been made for them "
            f"as they are shown: {_listed(doubtful)}."
        )
    if void:
        warnings.append(f"Images without a labelled pixel ({len(void)}): {_listed(void)}.")
    ignored = {name: int(total[IGNORE]) for name, total in totals.items()}
    return Census(pixels, ignored, sizes, contents, tuple(twins), tuple(errors), tuple(warnings))


def _look(split: Split, index: int) -> _Look | DataError:
    try:
        sample, stored = split.read(index), split.digest(index)
    except DataError as error:
        return error
    # In float32, which is exact up to 16 million pixels of a class; np.bincount would copy the label as int64.
    counts = cv2.calcHist([sample.label], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    height, width = sample.label.shape
    image, label = _digest(sample.image), _digest(sample.label)
    return _Look(sample.name, stored, counts, (height, width), image, label, sample.doubtful)


def _digest(pixels: Pixels) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:MOST]) + ", ..." * (len(names) > MOST)
