"""A look at every file before a run begins, so that no damaged one stops it hours later."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from segdistill import distributed
from segdistill.data._base import DataSource, Pixels, Split
from segdistill.data._findings import (
    MAX_LISTED,
    Consistency,
    Duplicates,
    Finding,
    IdCounts,
    StoredIds,
    findings,
    histogram,
    listed,
    stored_ids,
)
from segdistill.errors import DataError
from segdistill.types import IGNORE

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
    impossible: DataError | None
    """What the counts show to be a mistake, where all pairs can be used."""
    warnings: tuple[str, ...]

    @property
    def error(self) -> DataError | None:
        """All errors in one, naming up to ten files; else what is impossible."""
        if len(self.errors) < 2:
            return self.errors[0] if self.errors else self.impossible
        more = f"\n... and {len(self.errors) - MAX_LISTED} more" if len(self.errors) > MAX_LISTED else ""
        found = "\n".join(error.what for error in self.errors[:MAX_LISTED])
        cures = dict.fromkeys(error.fix for error in self.errors[:MAX_LISTED] if error.fix)
        return DataError(f"{len(self.errors)} pairs cannot be used:\n{found}{more}", "\n".join(cures))

    def sizes_in_words(self) -> str:
        """Return the sizes of all images with their numbers, the frequent ones first."""
        sizes = sum(self.sizes.values(), Counter[tuple[int, int]]()).most_common()
        return listed([f"{height}x{width} ({count})" for (height, width), count in sizes])

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
            "errors": [error.what for error in (self.errors or (self.impossible,)) if error is not None],
            "warnings": [*source.warnings, *self.warnings],
        }


class _Look(NamedTuple):
    name: str
    stored: bytes  # a digest of its file
    counts: npt.NDArray[np.int64]  # (256,)
    size: tuple[int, int]
    image: bytes  # a digest of its pixels
    label: bytes
    found: tuple[tuple[Finding, str], ...]
    ids: StoredIds | None


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
        What the splits hold, with an error where classes cannot be as they are declared, and warnings about classes
        never seen, images that are in two splits, and what gives ids or pixels another meaning in one file than in
        another.
    """
    totals: dict[str, npt.NDArray[np.int64]] = {}
    sizes: dict[str, Counter[tuple[int, int]]] = {}
    contents: dict[str, str] = {}
    id_counts: dict[str, IdCounts] = {}
    errors: list[DataError] = []
    twins: list[Twins] = []
    found: dict[Finding, list[str]] = {finding: [] for finding in Finding}
    duplicates, consistency = Duplicates(), Consistency()
    with ThreadPoolExecutor(distributed.cores()) as pool:  # Pillow decodes outside the interpreter's lock
        for name in splits:
            split = source.split(name)
            totals[name], sizes[name], id_counts[name] = np.zeros(256, np.int64), Counter(), IdCounts()
            content = hashlib.sha256()
            enough = at_most or (ENOUGH if source.generated else len(split.names))
            every = max(1, len(split.names) // max(1, enough))
            for look in _looks(pool, split, range(0, len(split.names), every)):
                on_image(every)
                if isinstance(look, DataError):
                    errors.append(look)
                    continue
                totals[name] += look.counts
                sizes[name][look.size] += 1
                content.update(look.stored + look.label)
                for finding, file in look.found:
                    found[finding].append(file)
                if look.ids is not None:
                    id_counts[name].add(look.ids)
                    consistency.add(look.ids)
                owner, twin = duplicates.add(name, look.name, look.image, look.label)
                if owner != name and HELD_OUT & {owner, name}:
                    twins.append(Twins((owner, name), (twin, look.name)))
            contents[name] = content.hexdigest()
    pixels = {name: total[: len(source.classes)] for name, total in totals.items()}
    whole = not errors and at_most is None
    impossible = _impossible_classes(source, pixels, id_counts) if whole else None
    warnings = [*_absent_classes(source.classes, pixels)]
    if twins:
        warnings.append(f"Images in two splits ({len(twins)}): {listed([' = '.join(pair.names) for pair in twins])}.")
    warnings += [finding.sentence(names) for finding, names in found.items() if names]
    warnings += [*consistency.warnings(), *duplicates.warnings()]
    ignored = {name: int(total[IGNORE]) for name, total in totals.items()}
    return Census(pixels, ignored, sizes, contents, tuple(twins), tuple(errors), impossible, tuple(warnings))


def _absent_classes(classes: tuple[str, ...], pixels: dict[str, npt.NDArray[np.int64]]) -> Iterator[str]:
    """Yield a sentence for each split that lacks classes, with what follows; an unlabeled split lacks none."""
    none = np.zeros(len(classes), np.int64)
    taught = sum((counts for split, counts in pixels.items() if split not in HELD_OUT), none)
    for split, counts in pixels.items():
        absent = [classes[i] for i in np.flatnonzero(counts == 0)]
        if not absent or not counts.any():
            continue
        sentence = f"Classes without a pixel in the {split} split ({len(absent)}): {listed(absent)}."
        untaught = taught == 0
        missed = [classes[i] for i in np.flatnonzero(untaught & (pixels.get("val", none) > 0))]
        if split in HELD_OUT:
            sentence += f" An mIoU over the {split} split leaves them out, unless they are predicted."
        elif missed:
            sentence += f" No label teaches {listed(missed)}, which the val split has: expect an IoU of 0 there."
        elif untaught.any():
            sentence += " No label teaches them: they can be learnt from a teacher alone."
        yield sentence


def _impossible_classes(
    source: DataSource, pixels: dict[str, npt.NDArray[np.int64]], ids: dict[str, IdCounts]
) -> DataError | None:
    """Return an error where the pixels of the classes show that labels do not mean what was declared.

    This is the one place that says when absent classes stop a run:

    - A split for training or validation without one labelled pixel teaches or scores nothing.
    - A training split with a single class teaches nothing: every network is right at once.
    - A class of one's own data that no training label has: a wrong id, a white mask (255 is void unless said
      otherwise), a list that was copied. `absent` in the data.toml says that it is meant, as for a class that only a
      teacher teaches.

    Any other absent class is a warning: rare classes are absent from small parts of public data sets.
    """
    for split in ("train", "val"):
        if split in pixels and not pixels[split].any():
            what = f"Not one pixel of the {split} split has a class: all are void."
            return DataError(what, _way_out(source, ids[split], source.classes))
    if "train" not in pixels:
        return None
    absent = [name for name, count in zip(source.classes, pixels["train"], strict=True) if not count]
    if len(absent) == len(source.classes) - 1:
        (present,) = set(source.classes) - set(absent)
        what = f"All labelled pixels of the train split are {present!r}. Classes without a pixel: {listed(absent)}."
        return DataError(what, _way_out(source, ids["train"], absent))
    missing = [name for name in absent if name in source.expected]
    if missing:
        what = f"Classes without a pixel in the train split ({len(missing)}): {listed(missing)}."
        meant = json.dumps(missing, ensure_ascii=False)
        fix = _way_out(source, ids["train"], missing)
        return DataError(
            what, f"{fix}\nIf they are meant to be missing, say so above the tables there: absent = {meant}"
        )
    return None


def _way_out(source: DataSource, ids: IdCounts, absent: Sequence[str]) -> str:
    """Return what to do about classes that have no pixels: an ignored id may be one of them."""
    look = "`segdistill data check` shows what was read with --preview look.png."
    if not ids.ignored:
        return look
    (id_, count), *_ = ids.ignored.most_common(1)
    found = f"{count:,} pixels have the id {id_}, which means ignore in {source.name}: they count nowhere."
    if not source.ignores_unsaid:
        return f"{found} Data with other ids is described by a data.toml.\n{look}"
    named = {own: source.classes[index] for own, index in sorted(ids.classes.items())[:MAX_LISTED]} | {id_: absent[0]}
    lines = [f'{own} = "{name}"' for own, name in named.items()]
    return f"{found} If it is a class, say so in the data.toml:\n[ids]\n" + "\n".join(lines)


def _looks(pool: ThreadPoolExecutor, split: Split, indices: range) -> Iterator[_Look | DataError]:
    """Yield what is seen of each pair, in order."""
    for start in range(0, len(indices), AT_ONCE):
        yield from pool.map(partial(_look, split), indices[start : start + AT_ONCE])


def _look(split: Split, index: int) -> _Look | DataError:
    try:
        sample, stored = split.read(index), split.digest(index)
    except DataError as error:
        return error
    counts, ids = histogram(sample.label), stored_ids(sample.stored_label)
    height, width = sample.label.shape
    found = [*findings(sample, ids)]
    if counts[IGNORE] == height * width:
        found.append((Finding.VOID, sample.name))
    image, label = _digest(sample.image), _digest(sample.label)
    return _Look(sample.name, stored, counts, (height, width), image, label, tuple(found), ids)


def _digest(pixels: Pixels) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()
