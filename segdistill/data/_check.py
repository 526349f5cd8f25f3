"""A look at every file before a run begins, so that no damaged one stops it hours later."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from segdistill.data._base import DataSource, Split
from segdistill.errors import DataError
from segdistill.types import IGNORE

MOST = 10
"""Names in a message."""
ENOUGH = 64
"""Drawn scenes that show the classes' shares."""


@dataclass(frozen=True, eq=False)
class Census:
    """What some splits hold."""

    pixels: dict[str, npt.NDArray[np.int64]]
    """Per split (C,): the pixels of each class."""
    ignored: dict[str, int]
    """Per split: the pixels that count nowhere."""
    warnings: tuple[str, ...]


class _Look(NamedTuple):
    name: str
    counts: npt.NDArray[np.int64]  # (256,)
    digest: bytes


def check_files(source: DataSource, splits: Iterable[str]) -> Census:
    """Decode every pair of some splits, in parallel; of generated ones a few, for the counts.

    Returns:
        The pixels of each class, with warnings about classes never seen and images that are in two splits.

    Raises:
        DataError: naming the files that cannot be used, all of them up to ten.
    """
    totals: dict[str, npt.NDArray[np.int64]] = {}
    bad: list[DataError] = []
    owners: dict[bytes, tuple[str, str]] = {}
    twins = []
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        for name in splits:
            split, total = source.split(name), np.zeros(256, np.int64)
            every = max(1, len(split.names) // ENOUGH) if source.generated else 1
            for look in pool.map(partial(_look, split), range(0, len(split.names), every)):
                if isinstance(look, DataError):
                    bad.append(look)
                    continue
                total += look.counts
                owner, twin = owners.setdefault(look.digest, (name, look.name))
                twins += [f"{twin} = {look.name}"] if owner != name else []
            totals[name] = total
    if len(bad) == 1:
        raise bad[0]
    if bad:
        more = f"\n... and {len(bad) - MOST} more" if len(bad) > MOST else ""
        raise DataError(
            f"{len(bad)} pairs cannot be used:\n" + "\n".join(e.what for e in bad[:MOST]) + more, bad[0].fix
        )
    pixels = {name: total[: len(source.classes)] for name, total in totals.items()}
    warnings = [
        f"No pixel of the {name} split is {source.classes[i]}."
        for name in pixels
        if pixels[name].any()  # an unlabelled split has none
        for i in np.flatnonzero(pixels[name] == 0)
    ]
    if twins:
        warnings.append(
            f"Images in two splits ({len(twins)}): {', '.join(twins[:MOST])}{', ...' * (len(twins) > MOST)}."
        )
    return Census(pixels, {name: int(total[IGNORE]) for name, total in totals.items()}, tuple(warnings))


def _look(split: Split, index: int) -> _Look | DataError:
    try:
        sample = split.read(index)
    except DataError as error:
        return error
    digest = hashlib.blake2b(sample.image.data, digest_size=16).digest()
    return _Look(sample.name, np.bincount(sample.label.ravel(), minlength=256), digest)
