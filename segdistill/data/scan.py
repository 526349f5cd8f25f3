"""A look at every file before a run begins, so that no damaged one stops it hours later."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from segdistill.data.base import DataSource, Pixels, Split
from segdistill.data.class_presence import absent_class_warnings, impossible_classes
from segdistill.data.duplicates import Duplicates, ImageIdentity
from segdistill.data.findings import Finding, findings_in
from segdistill.data.id_consistency import IdConsistency
from segdistill.data.label_ids import IdCounts, StoredIds, histogram, stored_ids
from segdistill.data.report import DatasetReport, SplitReport
from segdistill.errors import DataError
from segdistill.runtime import distributed
from segdistill.types import IGNORE

RENDERED_SCENES = 64
"""Scenes of a generated split that are enough to show the classes' shares; none of them can be damaged."""
MAX_PENDING = 1000
"""Images that wait for a thread: a hundred thousand would take hundreds of megabytes."""

OnImage = Callable[[int], None]


class _ScannedPair(NamedTuple):
    """The share of one pair in the reports, in a few hundred bytes."""

    name: str
    image_file: bytes
    """Digest of the image's file."""
    pixels: npt.NDArray[np.int64]
    """(256,) numbers of pixels of the classes and of IGNORE."""
    size: tuple[int, int]
    """Height and width."""
    image: bytes
    """Digest of the image's pixels."""
    label: bytes
    """Digest of the label's classes."""
    findings: tuple[tuple[Finding, str], ...]
    ids: StoredIds | None


@dataclass(frozen=True)
class _OverAllSplits:
    """Checks that compare the files of all splits."""

    duplicates: Duplicates
    ids: IdConsistency


def check_files(
    source: DataSource,
    splits: Iterable[str],
    on_image: OnImage = lambda count: None,
    *,
    at_most: int | None = None,
) -> DatasetReport:
    """Scan some splits, all pairs of which must be usable; see `scan_dataset`.

    Raises:
        DataError: naming the files that cannot be used, all of them up to ten.
    """
    report = scan_dataset(source, splits, on_image, at_most=at_most)
    if report.error is not None:
        raise report.error
    return report


def scan_dataset(
    source: DataSource,
    splits: Iterable[str],
    on_image: OnImage = lambda count: None,
    *,
    at_most: int | None = None,
) -> DatasetReport:
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
    overall = _OverAllSplits(Duplicates(), IdConsistency())
    reports = {}
    with ThreadPoolExecutor(distributed.cores()) as pool:  # Pillow decodes outside the interpreter's lock
        for name in splits:
            split = source.split(name)
            step = _step(source, split, at_most)
            pairs = _counted(_scanned_pairs(pool, split, range(0, len(split.names), step)), step, on_image)
            reports[name] = _split_report(source, name, pairs, overall)
    impossible = None
    if at_most is None and not any(report.errors for report in reports.values()):
        impossible = impossible_classes(source, reports)  # counts of a part would prove nothing
    return DatasetReport(
        reports,
        twins=tuple(overall.duplicates.twins),
        warnings=tuple(_warnings(source.classes, reports, overall)),
        impossible=impossible,
    )


def _warnings(classes: Sequence[str], reports: Mapping[str, SplitReport], overall: _OverAllSplits) -> Iterator[str]:
    """Yield the sentences of all reports: absent classes first, then what concerns single files."""
    yield from absent_class_warnings(classes, reports)
    yield from overall.duplicates.twins_warnings()
    for finding in Finding:
        names = [name for report in reports.values() for name in report.findings.get(finding, ())]
        if names:
            yield finding.sentence(names)
    yield from overall.ids.warnings()
    yield from overall.duplicates.relabeled_warnings()


def _step(source: DataSource, split: Split, at_most: int | None) -> int:
    """Return how many images there are to each one that is looked at."""
    images = len(split.names)
    wanted = at_most or (RENDERED_SCENES if source.generated else images)
    return max(1, images // max(1, wanted))


def _counted(
    pairs: Iterable[_ScannedPair | DataError], step: int, on_image: OnImage
) -> Iterator[_ScannedPair | DataError]:
    """Yield pairs and report the progress, in which each stands for the ones that are passed over."""
    for pair in pairs:
        on_image(step)
        yield pair


def _split_report(
    source: DataSource, name: str, pairs: Iterable[_ScannedPair | DataError], overall: _OverAllSplits
) -> SplitReport:
    """Add up what was seen of a split's pairs, and show them to the checks over all splits."""
    pixels = np.zeros(256, np.int64)
    present = np.zeros(256, np.int64)
    sizes = Counter[tuple[int, int]]()
    ids = IdCounts()
    content = hashlib.sha256()
    findings: dict[Finding, list[str]] = {}
    errors = []
    for pair in pairs:
        if isinstance(pair, DataError):
            errors.append(pair)
            continue
        pixels += pair.pixels
        labeled = pair.pixels.sum() - pair.pixels[IGNORE]
        present += np.where(pair.pixels > 0, labeled, 0)
        sizes[pair.size] += 1
        # Run folders keep what comes of it: files of images, as decoders differ, and classes of label maps, as their
        # files may be saved anew.
        content.update(pair.image_file + pair.label)
        for finding, file in pair.findings:
            findings.setdefault(finding, []).append(file)
        if pair.ids is not None:
            ids.add(pair.ids)
            overall.ids.add(pair.ids)
        overall.duplicates.add(ImageIdentity(name, pair.name, pixels=pair.image, label=pair.label))
    return SplitReport(
        images=len(source.split(name).names),
        pixels=pixels[: len(source.classes)],
        present=present[: len(source.classes)],
        ignored=int(pixels[IGNORE]),
        sizes=sizes,
        ids=ids,
        content=content.hexdigest(),
        findings={finding: tuple(files) for finding, files in findings.items()},
        errors=tuple(errors),
    )


def _scanned_pairs(pool: ThreadPoolExecutor, split: Split, indices: range) -> Iterator[_ScannedPair | DataError]:
    """Yield what is seen of each pair, in order."""
    for start in range(0, len(indices), MAX_PENDING):
        yield from pool.map(partial(_scan_pair, split), indices[start : start + MAX_PENDING])


def _scan_pair(split: Split, index: int) -> _ScannedPair | DataError:
    """Read a pair; return an error, since one that is raised would end the scan at the first damaged file."""
    try:
        sample = split.read(index)
        image_file = split.digest(index)
    except DataError as error:
        return error
    ids = stored_ids(sample.stored_label)
    height, width = sample.label.shape
    return _ScannedPair(
        name=sample.name,
        image_file=image_file,
        pixels=histogram(sample.label),
        size=(height, width),
        image=_pixel_digest(sample.image),
        label=_pixel_digest(sample.label),
        findings=tuple(findings_in(sample, ids)),
        ids=ids,
    )


def _pixel_digest(pixels: Pixels) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()
