"""Data whose files were all read and can be used: known by what the files hold, no longer by their names alone."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from segdistill.data.base import DataSource
from segdistill.data.report import DatasetReport
from segdistill.data.scan import check_files, scan_dataset
from segdistill.errors import DataError
from segdistill.runtime import distributed
from segdistill.runtime.reporter import NullReporter, Reporter

MANY_IMAGES = 300
"""Images that take a moment to read: their progress is shown, and a first look at a few of them comes before."""
FIRST_LOOK = 16
"""Pairs of a split that tell at once of a mistake that is in all of them."""


@dataclass(frozen=True)
class VerifiedData(DataSource):
    """A data set whose files were read: all pairs can be used, and the classes are as they are declared.

    Made by `verify_data`, and by `view` for another choice of the same images.
    """

    contents: Mapping[str, str] = field(kw_only=True)
    """Digest of the images and label maps of each split; see `SplitReport.content`."""
    report: DatasetReport = field(kw_only=True)
    """Findings from reading them."""

    @classmethod
    def from_report(cls, source: DataSource, report: DatasetReport) -> "VerifiedData":
        """Attach the report of a scan of all splits to the data set that was scanned.

        Raises:
            DataError: if a pair cannot be used, or the classes cannot be as they are declared.
        """
        if report.error is not None:
            raise report.error
        return cls(**_source_fields(source), contents=report.contents, report=report)

    @property
    def fingerprint(self) -> str:
        """A sha256 of names, sizes and contents of all files: the same wherever the data.toml and its folders lie."""
        return self.fingerprint_with(self.contents)

    @property
    def content_fingerprint(self) -> str:
        """A sha256 of name, classes, images and label maps alone: the same where folders or files have other names."""
        parts = [self.name, self.classes, dict(self.contents)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def view(self, source: DataSource) -> "VerifiedData":
        """Return another choice of splits of this data set as verified too, without reading its files again.

        Args:
            source: the same data set with splits that are all among those that were read, such as a teacher's, which
                has no images without labels.

        Raises:
            ValueError: if a split of it was not read.
        """
        for name, split in source.splits.items():
            if name not in self.splits or self.splits[name].fingerprint != split.fingerprint:
                raise ValueError(f"The {name} split was not read.")
        contents = {name: self.contents[name] for name in source.splits}
        return VerifiedData(**_source_fields(source), contents=contents, report=self.report)


def verify_data(source: DataSource, reporter: Reporter) -> VerifiedData:
    """Read every file of a data set, and warn of what is unusual.

    Under torchrun, the first process of each machine reads; all of them return the same.

    Args:
        source: the data set.
        reporter: where to show progress and warnings.

    Raises:
        DataError: naming the files that cannot be used; where many of them cannot, after the first few. In all
            processes, if the files of one machine are not those of another.
    """

    def read() -> DatasetReport | None:
        return _read_files(source, reporter) if distributed.is_local_main() else None

    reports = distributed.run_on_all(read)
    first = reports[0]
    assert first is not None, "process 0 is the first of its machine"
    different = [
        str(number) for number, report in enumerate(reports) if report is not None and report.contents != first.contents
    ]
    if different:
        raise distributed.collective_error(
            DataError(
                f"Process {', '.join(different)} reads other images or label maps than process 0, under the same "
                "names.",
                "Copy the data set to each machine again; `segdistill data check` reads every file.",
            )
        )
    return VerifiedData.from_report(source, first)


def _read_files(source: DataSource, reporter: Reporter) -> DatasetReport:
    """Scan all splits, show the warnings, and return what was found.

    Raises:
        DataError: if the data cannot be used.
    """
    images = sum(len(split.names) for split in source.splits.values())
    takes_a_moment = images > MANY_IMAGES and not source.generated
    if takes_a_moment:
        _look_at_a_few(source)
    progress_reporter = reporter if takes_a_moment else NullReporter()
    with progress_reporter.progress(f"reading {source.name}", images) as advance:
        report = scan_dataset(source, source.splits, lambda count: advance(count, ""))
    for warning in report.warnings:
        reporter.warning(warning)
    if report.error is not None:  # warnings come first: they may name its cause
        raise report.error
    return report


def _look_at_a_few(source: DataSource) -> None:
    """Refuse data with a mistake that is in all files within seconds, not after the last of a hundred thousand.

    Raises:
        DataError: if one of the first few pairs cannot be used.
    """
    try:
        check_files(source, source.splits, at_most=FIRST_LOOK)
    except DataError as error:
        raise DataError(error.what, f"{error.fix}\n`segdistill data check` reads every file.".lstrip()) from None


def _source_fields(source: DataSource) -> dict[str, Any]:
    """Return the fields of a data set by their names, without those that verification adds."""
    return {entry.name: getattr(source, entry.name) for entry in fields(DataSource)}
