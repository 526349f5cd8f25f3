"""Reports of a scan: what each split of a data set holds, and what is only seen over all of them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segdistill.data.base import DataSource
from segdistill.data.duplicates import Twins
from segdistill.data.findings import Finding
from segdistill.data.label_ids import IdCounts
from segdistill.errors import DataError
from segdistill.wording import MAX_LISTED, counted, listed


@dataclass(frozen=True, eq=False)
class SplitReport:
    """Contents of one split, as far as its pairs can be used."""

    images: int
    """Number of images that the split names, read or not."""
    pixels: npt.NDArray[np.int64]
    """(C,) numbers of pixels of the classes."""
    present: npt.NDArray[np.int64]
    """(C,) numbers of labeled pixels of the images that have a pixel of the class."""
    ignored: int
    """Number of pixels that count nowhere."""
    sizes: Counter[tuple[int, int]]
    """Number of images of each height and width."""
    ids: IdCounts
    """Ids in the label maps; empty where these hold colors."""
    content: str
    """Digest of all images' files and of all label maps' ids, in order."""
    findings: Mapping[Finding, tuple[str, ...]]
    """Files in which each kind of finding was made; kinds without any are left out."""
    errors: tuple[DataError, ...]
    """One for each pair that cannot be used; the counts leave it out."""


@dataclass(frozen=True, eq=False)
class DatasetReport:
    """Contents of some splits of a data set."""

    splits: Mapping[str, SplitReport]
    twins: tuple[Twins, ...]
    """Images in two splits."""
    warnings: tuple[str, ...]
    """Sentences about all that is unusual and does not stop a run."""
    impossible: DataError | None
    """Mistakes that the counts show, where all pairs can be used."""

    @property
    def errors(self) -> tuple[DataError, ...]:
        """One error for each pair that cannot be used."""
        return tuple(self._errors())

    def _errors(self) -> Iterator[DataError]:
        for report in self.splits.values():
            yield from report.errors

    @property
    def error(self) -> DataError | None:
        """All errors in one, naming up to ten files; else what is impossible; None where the data can be used."""
        errors = self.errors
        if not errors:
            return self.impossible
        if len(errors) == 1:
            return errors[0]
        shown = errors[:MAX_LISTED]
        lines = [f"{counted(len(errors), 'pair')} cannot be used:", *(error.what for error in shown)]
        if len(errors) > MAX_LISTED:
            lines.append(f"... and {len(errors) - MAX_LISTED} more")
        fixes = dict.fromkeys(error.fix for error in shown if error.fix)  # each of them once, in order
        return DataError("\n".join(lines), "\n".join(fixes))

    @property
    def contents(self) -> dict[str, str]:
        """Digest of each split's images and label maps; see `SplitReport.content`."""
        return {name: report.content for name, report in self.splits.items()}

    def sizes_text(self) -> str:
        """Return the sizes of all images with their numbers, the frequent ones first."""
        total = Counter[tuple[int, int]]()
        for report in self.splits.values():
            total += report.sizes
        return listed([f"{height}x{width} ({count})" for (height, width), count in total.most_common()])

    def to_json(self, source: DataSource) -> dict[str, Any]:
        """Return what `data check --json` prints of the data set that was scanned."""
        errors = list(self.errors)
        if not errors and self.impossible is not None:
            errors = [self.impossible]
        return {
            "name": source.name,
            "splits": {name: _split_json(report, source.classes) for name, report in self.splits.items()},
            "duplicates": [dict(zip(pair.splits, pair.names, strict=True)) for pair in self.twins],
            "errors": [error.what for error in errors],
            "warnings": [*source.warnings, *self.warnings],
        }


def _split_json(report: SplitReport, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "images": report.images,
        "pixels": dict(zip(classes, report.pixels.tolist(), strict=True)),
        "ignored_pixels": report.ignored,
        "sizes": [{"size": size, "images": count} for size, count in report.sizes.most_common()],
    }
