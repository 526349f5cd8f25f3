"""Read every image and label of a data set, and draw some of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdistill.commands._inputs import data_inputs, refuse_files_over
from segdistill.data import DatasetReport, DataSource, load_data, scan_dataset
from segdistill.errors import DataError
from segdistill.reports.figures import check_preview, draw_preview
from segdistill.runtime.reporter import Reporter

IGNORED = "ignored"
"""Name of the pixels that count nowhere, in the table of classes."""


@dataclass(frozen=True)
class DataCheckOptions:
    """The data set that is read, and the file of its preview."""

    data: str
    """Data set as `--data` takes it."""
    preview: Path | None = None
    """PNG with some images and their labels; None draws none."""
    overwrite: bool = False
    """Replace a preview that is there."""


@dataclass(frozen=True)
class DataCheck:
    """A data set, and what its files hold."""

    source: DataSource
    report: DatasetReport

    @property
    def num_images(self) -> dict[str, int]:
        """Number of images of each split."""
        return {name: len(split.names) for name, split in self.source.splits.items()}

    @property
    def row_names(self) -> list[str]:
        """Names of the classes and, last, of the ignored pixels."""
        return [*self.source.classes, IGNORED]

    @property
    def pixels(self) -> dict[str, list[int]]:
        """Pixels of each split, one number for each of `row_names`."""
        return {name: [*split.pixels.tolist(), split.ignored] for name, split in self.report.splits.items()}

    @property
    def has_counts(self) -> bool:
        """Whether any image could be read."""
        return any(split.sizes for split in self.report.splits.values())

    @property
    def unreadable(self) -> DataError | None:
        """The files that cannot be used, in one error; None where all can."""
        return self.report.error if self.report.errors else None

    @property
    def impossible(self) -> DataError | None:
        """The mistake that the counts show, such as a class that is nowhere; None where they show none."""
        return self.report.impossible

    def to_json(self) -> dict[str, Any]:
        """Return what `data check --json` prints."""
        return self.report.to_json(self.source)


def check_data(options: DataCheckOptions, reporter: Reporter) -> DataCheck:
    """Read every file of a data set.

    Args:
        options: which, and the preview, of which is checked beforehand whether it can be written.
        reporter: shows the progress, and takes warnings.

    Raises:
        UsageError: if the data set is unknown, or the preview cannot be written.
        DataError: if the folder does not hold that data set. What is wrong with single files is in the result.
    """
    # Reading takes minutes: what would fail behind it is checked before.
    if options.preview is not None:
        check_preview(options.preview, overwrite=options.overwrite)
    source = load_data(options.data)
    if options.preview is not None:
        refuse_files_over([options.preview], data_inputs(source, options.data))
    num_images = sum(len(split.names) for split in source.splits.values())
    with reporter.progress(source.name, num_images) as advance:
        report = scan_dataset(source, source.splits, lambda count: advance(count, ""))
    for warning in (*source.warnings, *report.warnings):
        reporter.warning(warning)
    return DataCheck(source, report)


def write_preview(check: DataCheck, path: Path) -> list[str]:
    """Draw some images with their labels; return the images' names, from top to bottom."""
    labeled_splits = [name for name, split in check.report.splits.items() if split.pixels.any()]
    # A data set without any label is drawn too: it helps to see why it cannot be used.
    splits = labeled_splits or [*check.source.splits]
    return draw_preview(path, check.source, splits)
