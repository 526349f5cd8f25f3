"""What the size costs a teacher at which it teaches: its score there, and at the size that it wants.

A student takes the size that its preset gives its images. A teacher from elsewhere may find half as much in images that
small, and following it then is following a worse teacher than the one that was chosen.
"""

from collections.abc import Callable
from typing import NamedTuple

from segdistill.config.schema import DataConfig, Size
from segdistill.data import DataSource
from segdistill.evaluation.metrics import Scores, class_counts, class_iou
from segdistill.teachers.teacher import Teacher

MIN_COST = 0.02
"""Difference in mIoU, 0..1, from which a user is warned: a larger image is worth that to few students."""

ScoreAt = Callable[[Size | None, int], Scores]
"""Scores a teacher on images brought to a size, of which so many are taken."""


class SizeCost(NamedTuple):
    """The scores of a teacher at two sizes, on the same images."""

    teaching: Size | None
    """Size (height, width) of the images that it teaches on, before they are cropped; None of images at their own."""
    own: Size | None
    """Size that it says it wants; None of images at their own."""
    at_teaching: float
    """mIoU, 0..1, at the first."""
    at_own: float
    """mIoU, 0..1, at the second."""
    images: int

    @property
    def row(self) -> tuple[str, str]:
        """Name and value to show of it."""
        return (
            "sizes",
            f"mIoU {100 * self.at_teaching:.2f} % at {size_text(self.teaching)}, at which it teaches; "
            f"{100 * self.at_own:.2f} % at {size_text(self.own)} ({self.images} images)",
        )

    @property
    def warning(self) -> str:
        """A sentence with what helps; empty where the size costs little."""
        cost = self.at_own - self.at_teaching
        if cost < MIN_COST:
            return ""
        return (
            f"data.size costs this teacher {100 * cost:.1f} points of mIoU: {100 * self.at_teaching:.2f} % at "
            f"{size_text(self.teaching)}, at which it teaches, {100 * self.at_own:.2f} % at {size_text(self.own)}. "
            "--set teacher.scale=1.5 (or 2) enlarges images for the teacher alone; a larger data.size, for both."
        )


def two_sizes(teacher: Teacher, data: DataSource, training: DataConfig) -> tuple[Size | None, Size | None] | None:
    """Return the size at which a teacher teaches and the one that it wants; None where they are the same.

    The size that it wants is what its file says, else that of the images as they are: but of a teacher that was
    trained on this data at this size, it is this one.
    """
    wanted = teacher.info.size
    if teacher.source_network.only_size is not None:  # whatever it is given, it sees that
        return None
    if wanted == training.size and teacher.info.data != data.name:
        wanted = None
    if wanted == training.size:
        return None
    height, width = data.split("val").read(0).image.shape[:2]
    if {wanted or (height, width)} == {training.size or (height, width)}:
        return None
    return training.size, wanted


def size_cost(sizes: tuple[Size | None, Size | None], score: ScoreAt, images: int) -> SizeCost:
    """Score a teacher at the size at which it teaches and at the one that it wants."""
    teaching, own = sizes
    at_teaching, at_own = score(teaching, images), score(own, images)
    return SizeCost(teaching, own, mean_over_labeled(at_teaching), mean_over_labeled(at_own), at_own.images)


def pixel_ratio(size: Size | None, other: Size | None, data: DataSource) -> float:
    """Return how many times the pixels of an image at the second size one has at the first."""
    height, width = data.split("val").read(0).image.shape[:2]
    own = (height, width)
    (first_height, first_width), (second_height, second_width) = size or own, other or own
    return first_height * first_width / (second_height * second_width)


def mean_over_labeled(scores: Scores) -> float:
    """Return the mean IoU over the classes that the sample has.

    Whole validation sets have all classes; with a few images, each class that they lack and that is answered somewhere
    would add a 0.
    """
    counts = class_counts(scores.pixels)  # columns: intersection, labeled, answered
    return class_iou(counts)[counts[:, 1] > 0].mean().nan_to_num().item()


def size_text(size: Size | None) -> str:
    """Return a size in words."""
    if size is None:
        return "their own size"
    height, width = size
    return f"{height}x{width}"
