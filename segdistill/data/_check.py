"""A look at every file before a run begins, so that no damaged one stops it hours later."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from segdistill.data._base import DataSource, Split
from segdistill.errors import DataError
from segdistill.types import IGNORE

MOST = 10
"""Names or sizes in a message."""
ENOUGH = 64
"""Drawn scenes that show the classes' shares."""
HELD_OUT = {"val", "test"}
"""Splits whose images are nowhere else."""


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
        return DataError(f"{len(self.errors)} pairs cannot be used:\n{found}{more}", self.errors[0].fix)

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
    counts: npt.NDArray[np.int64]  # (256,)
    size: tuple[int, int]
    digest: bytes


def check_files(source: DataSource, splits: Iterable[str]) -> Census:
    """Take the census of some splits.

    Raises:
        DataError: naming the files that cannot be used, all of them up to ten.
    """
    census = take_census(source, splits)
    if census.error is not None:
        raise census.error
    return census


def take_census(
    source: DataSource, splits: Iterable[str], on_image: Callable[[int], None] = lambda count: None
) -> Census:
    """Decode every pair of some splits, in parallel; of generated ones a few, for the counts.

    Args:
        source: the data set.
        splits: names of its splits.
        on_image: called with the number of images done.

    Returns:
        What the splits hold, with warnings about classes never seen and images that are in two of them.
    """
    totals: dict[str, npt.NDArray[np.int64]] = {}
    sizes: dict[str, Counter[tuple[int, int]]] = {}
    errors: list[DataError] = []
    owners: dict[bytes, tuple[str, str]] = {}
    twins = []
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        for name in splits:
            split = source.split(name)
            totals[name], sizes[name] = np.zeros(256, np.int64), Counter()
            every = max(1, len(split.names) // ENOUGH) if source.generated else 1
            for look in pool.map(partial(_look, split), range(0, len(split.names), every)):
                on_image(every)
                if isinstance(look, DataError):
                    errors.append(look)
                    continue
                totals[name] += look.counts
                sizes[name][look.size] += 1
                owner, twin = owners.setdefault(look.digest, (name, look.name))
                if owner != name and HELD_OUT & {owner, name}:
                    twins.append(Twins((owner, name), (twin, look.name)))
    pixels = {name: total[: len(source.classes)] for name, total in totals.items()}
    warnings = [
        f"No pixel of the {name} split is {source.classes[i]}."
        for name in pixels
        if pixels[name].any()  # an unlabelled split has none
        for i in np.flatnonzero(pixels[name] == 0)
    ]
    if twins:
        listed = ", ".join(" = ".join(pair.names) for pair in twins[:MOST])
        warnings.append(f"Images in two splits ({len(twins)}): {listed}{', ...' * (len(twins) > MOST)}.")
    ignored = {name: int(total[IGNORE]) for name, total in totals.items()}
    return Census(pixels, ignored, sizes, tuple(twins), tuple(errors), tuple(warnings))


def _look(split: Split, index: int) -> _Look | DataError:
    try:
        sample = split.read(index)
    except DataError as error:
        return error
    digest = hashlib.blake2b(sample.image.data, digest_size=16).digest()
    height, width = sample.label.shape
    return _Look(sample.name, np.bincount(sample.label.ravel(), minlength=256), (height, width), digest)
