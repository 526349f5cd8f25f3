"""Is the teacher worth following? What a few validation images say, before days are spent.

A teacher whose classes are exchanged, or that sees its images otherwise than in its own training, still gives a loss
that falls.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from segdistill.config.schema import DataConfig, InputConfig, Size
from segdistill.data import DataSource, SubsetSplit, evaluation_batches
from segdistill.evaluation.evaluate import evaluate
from segdistill.evaluation.metrics import Scores, class_counts, coverage
from segdistill.evaluation.predictor import predictor
from segdistill.evaluation.significance import MIN_IMAGES, compare
from segdistill.runtime.precision import Precision
from segdistill.runtime.reporter import Rows
from segdistill.teachers.exchanged_classes import exchanged_classes
from segdistill.teachers.preprocessing_variants import preprocessing_variants
from segdistill.teachers.size_cost import SizeCost, mean_over_labeled, pixel_ratio, size_cost, size_text, two_sizes
from segdistill.teachers.teacher import Teacher
from segdistill.wording import counted

MAX_SECONDS = 30.0
"""Seconds after which nothing more is tried; half of them are for the teacher as it is."""
MAX_IMAGES = 32
"""Validation images that the teacher is scored on, at most."""
VARIANT_IMAGES = 4
"""Validation images on which the other ways to prepare them are compared; the best is scored on all of the sample."""
MIN_MIOU = 0.2
"""mIoU of a teacher whose file names none for this data: below, following it has never been seen to help."""
MIN_TRAINED_MIOU = 0.1
"""mIoU from which a teacher knows enough for its mistakes to be told from chance; below, neither its classes nor its
images' preparation are doubted."""
MIN_GAIN = 0.02
"""Difference in mIoU, 0..1, by which a teacher must do better on otherwise prepared images: more than chance."""

MIN_GAIN_OF_FEW = 0.1
"""Likewise on fewer images than a verdict takes, whose interval is too narrow: teachers of a few steps gained 0.08 by
chance on two images."""

ScoreImages = Callable[[int], Scores]
"""Scores the teacher, as it is now, on so many evenly spread validation images."""


@dataclass(frozen=True)
class TeacherCheck:
    """Findings of the check."""

    scores: Scores
    """Scores of the teacher as it is."""
    recorded: float | None
    """mIoU that the teacher's file names for this data, or agreement where it sees the labels; None of other data."""
    problems: tuple[str, ...]
    """Reasons not to follow it, in sentences."""
    untried: tuple[str, ...]
    """Other ways to prepare images for which there was no time, in words that follow "images"."""
    tensors: int
    """Number of tensors of its file, each loaded; 0 of a graph."""
    label_assisted: bool
    size_cost: SizeCost | None = None
    """Scores at the size at which it teaches and at the one that it wants; None where these are one."""

    @property
    def value(self) -> float:
        """Measured mIoU, or agreement where it sees the labels: a mean over the classes that the sample has."""
        if self.label_assisted:
            return self.scores.pixel_accuracy
        return mean_over_labeled(self.scores)

    @property
    def coverage(self) -> str:
        """Words to print after `value`: over how many classes it is a mean."""
        if self.label_assisted:
            return ""
        is_labeled = class_counts(self.scores.pixels)[:, 1] > 0
        return coverage(int(is_labeled.sum()), len(is_labeled))

    @property
    def value_name(self) -> str:
        """Name of what `value` is."""
        return "agreement with the labels it sees" if self.label_assisted else "mIoU"

    def low_scores(self) -> Iterator[str]:
        """Yield a sentence where the teacher is far from what it should be."""
        found = (
            f"Its {self.value_name} is {100 * self.value:.2f} %{self.coverage} on {self.scores.images} validation "
            "images"
        )
        # A file that names a low score is believed: its user knows what there is to follow.
        if self.recorded is None and self.value < MIN_MIOU:
            yield f"{found}, below {100 * MIN_MIOU:.0f} %."
        if self.recorded is not None and self.recorded >= MIN_TRAINED_MIOU and self.value < self.recorded / 2:
            yield f"{found}, less than half of the {100 * self.recorded:.2f} % that its file names for this data."

    def rows(self) -> Rows:
        """Return what to show, names and values."""
        measured = f"{100 * self.value:.2f} %{self.coverage} on {self.scores.images} validation images"
        if self.recorded is not None:
            measured += f"; its file says {100 * self.recorded:.2f} % of all"
        rows = [
            ("weights", f"{counted(self.tensors, 'tensor')}, all loaded" if self.tensors else "in its graph"),
            (self.value_name, measured),
            ("classes, inputs", self._findings()),
        ]
        if self.size_cost is not None:
            rows.insert(2, self.size_cost.row)
        return rows

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what a user should know who follows it all the same."""
        if self.size_cost is None or not self.size_cost.warning:
            return ()
        return (self.size_cost.warning,)

    def _findings(self) -> str:
        count = len(self.problems)
        findings = {0: "nothing found", 1: "1 problem"}.get(count, f"{count} problems")
        if self.untried:
            findings += "; no time was left for images " + "; ".join(self.untried)
        return findings


def other_sizes(teacher: Teacher, data: DataConfig) -> Iterator[str]:
    """Yield a sentence for each way in which a teacher sees its images larger or smaller while it teaches.

    Args:
        teacher: its file says at which size it is scored.
        data: what training makes of images.
    """
    only_size, scored_size = teacher.source_network.only_size, teacher.info.size
    if only_size not in (None, data.crop):
        yield f"It takes images of {size_text(only_size)} alone: crops of {size_text(data.crop)} are stretched to that."
    elif scored_size != data.size:
        scored_at, taught_at = size_text(scored_size), size_text(data.size)
        yield f"It is scored on images at {scored_at}, and teaches on crops of images at {taught_at}."


def check_teacher(
    teacher: Teacher, data: DataSource, precision: Precision, training: DataConfig | None = None
) -> TeacherCheck:
    """Score a teacher on evenly spread validation images, and look for what would make it better.

    Args:
        teacher: stays as it is.
        data: with a val split.
        precision: device and autocast type.
        training: what training makes of images; None where it is not trained with, so that one size is scored.
    """

    def score(images: int) -> Scores:
        return score_at(teacher.info.size, images)

    def score_at(size: Size | None, images: int) -> Scores:
        return _score(teacher, data, precision, size=size, images=images)

    # The first image tells how many there is time for: a teacher may take milliseconds or half a minute for one.
    start, seconds = _time_one_image(score)
    scores = score(max(1, min(MAX_IMAGES, int(MAX_SECONDS / 2 / seconds))))
    recorded = _recorded(teacher, data)
    problems: list[str] = []
    untried: list[str] = []
    if recorded is None or recorded >= MIN_TRAINED_MIOU:
        problems += exchanged_classes(scores, data.classes)
        best, untried = _best_variant(teacher, score, scores.images, deadline=start + MAX_SECONDS)
        if best is not None and _is_better(best[1], scores):
            problems.append(_prepared_otherwise(best[0], best[1], scores))
    sizes = None
    if training is not None and not teacher.is_label_assisted:
        sizes = two_sizes(teacher, data, training)
    cost = None
    if sizes is not None:
        # Of many pixels so few images that they take no longer than what is allowed for the teacher as it is.
        larger = max(pixel_ratio(size, teacher.info.size, data) for size in sizes)
        images = max(1, min(scores.images, int(MAX_SECONDS / 2 / (seconds * larger))))
        cost = size_cost(sizes, score_at, images)
    # The check itself knows how far its value is from the recorded one.
    check = TeacherCheck(
        scores,
        recorded,
        problems=(),
        untried=tuple(untried),
        tensors=len(teacher.network.state_dict()),
        label_assisted=teacher.is_label_assisted,
        size_cost=cost,
    )
    return replace(check, problems=(*check.low_scores(), *problems))


def _score(teacher: Teacher, data: DataSource, precision: Precision, *, size: Size | None, images: int) -> Scores:
    """Score a teacher on evenly spread validation images, brought to a size."""
    val = data.split("val")
    count = min(images, len(val.names))
    # evenly spread: neighbors may be frames of one video
    spread = torch.linspace(0, len(val.names) - 1, count).round().int().unique()
    sample = SubsetSplit(val, tuple(spread.tolist()), labels=True)
    batches = teacher.evaluation_batches(evaluation_batches(sample, size))
    return evaluate(predictor(teacher.network, precision), batches, len(data.classes))


def _time_one_image(score: ScoreImages) -> tuple[float, float]:
    """Return when scoring began, by the performance counter, and the seconds that an image takes."""
    start = time.perf_counter()
    score(1)
    seconds = time.perf_counter() - start
    if seconds < MAX_SECONDS / 10:  # part of it may be what is set up but once, and a second look is cheap
        start = time.perf_counter()
        score(1)
        seconds = time.perf_counter() - start
    return start, seconds


def _recorded(teacher: Teacher, data: DataSource) -> float | None:
    """Return what the teacher's file names for this data; None where it was scored on other data."""
    if teacher.info.data != data.name:
        return None
    return teacher.info.metrics.get("agreement_with_seen_labels" if teacher.is_label_assisted else "miou")


def _best_variant(
    teacher: Teacher, score: ScoreImages, images: int, deadline: float
) -> tuple[tuple[str, Scores] | None, list[str]]:
    """Score a teacher on images that are prepared in other ways.

    Args:
        teacher: has its images again as before in the end.
        score: scores it on a number of images.
        images: number of images of the whole sample.
        deadline: time of the performance counter after which no further way is tried.

    Returns:
        The best of the other ways, in words, with its scores on the whole sample; and the ways that were not tried.
    """
    network = teacher.source_network
    own_preprocessing = network.images

    def score_prepared(preprocessing: InputConfig, count: int) -> Scores:
        network.set_preprocessing(preprocessing, align_corners=network.align_corners)
        return score(count)

    # The network is changed in place and back: a copy of a large teacher might not fit into memory.
    variants = dict(preprocessing_variants(own_preprocessing))
    tried: dict[str, Scores] = {}
    untried: list[str] = []
    try:
        for words, preprocessing in variants.items():
            if time.perf_counter() > deadline:
                untried.append(words)
            else:
                tried[words] = score_prepared(preprocessing, min(images, VARIANT_IMAGES))
        if not tried:
            return None, untried
        best = max(tried, key=lambda words: tried[words].miou)  # the first of equal ones
        scores = tried[best]
        if images > VARIANT_IMAGES:
            scores = score_prepared(variants[best], images)
    finally:
        network.set_preprocessing(own_preprocessing, align_corners=network.align_corners)
    return (best, scores), untried


def _is_better(variant: Scores, scores: Scores) -> bool:
    """Whether a teacher does better on images that are prepared otherwise, by more than chance."""
    if variant.miou < MIN_TRAINED_MIOU:
        return False  # of two ways in which it knows nothing, one is better by chance
    gain = compare([scores], [variant], "")
    return gain.low > (MIN_GAIN if gain.images >= MIN_IMAGES else MIN_GAIN_OF_FEW)


def _prepared_otherwise(words: str, variant: Scores, scores: Scores) -> str:
    return (
        f"It does better on images {words} than on images as its file asks for them: mIoU "
        f"{100 * variant.miou:.2f}{variant.coverage} instead of {100 * scores.miou:.2f} %{scores.coverage} on "
        f"{scores.images} validation images."
    )
