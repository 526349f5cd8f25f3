"""The image that stands for a data set when speed is measured: time depends on an image's size, and on nothing else."""

from collections import Counter
from typing import NamedTuple

from torch import Tensor

from segdistill.data import SubsetSplit, evaluation_batches
from segdistill.data.base import Split
from segdistill.runtime.reporter import Reporter

Size = tuple[int, int]


class TypicalImage(NamedTuple):
    """An image of the size that stands for the data."""

    image: Tensor
    """(1, 3, h, w) float32 RGB in 0..255."""
    size_source: str
    """Origin of the size, in words."""


def typical_image(
    images: Split, *, requested_size: Size | None, model_size: Size | None, workers: int, reporter: Reporter
) -> TypicalImage:
    """Return an image of the size that stands for the data.

    Args:
        images: the validation split.
        requested_size: height and width from `--size`, which goes before all else.
        model_size: height and width that the model brings all images to; None where it leaves them at their own.
        workers: loader processes.
        reporter: shows the progress of reading all images, where their sizes decide.
    """
    if requested_size is not None:
        return TypicalImage(_read_one(images, 0, requested_size), "of --size")
    if model_size is not None:
        return TypicalImage(_read_one(images, 0, model_size), "of the model")
    return _of_most_frequent_size(images, workers, reporter)


def _of_most_frequent_size(images: Split, workers: int, reporter: Reporter) -> TypicalImage:
    """Return the first image of the size that most images have; of equally frequent sizes, of the one met first."""
    first_index: dict[Size, int] = {}
    counts: Counter[Size] = Counter()
    with reporter.progress("sizes", len(images.names)) as advance:
        for index, batch in enumerate(evaluation_batches(images, None, workers=workers)):
            height, width = batch.image.shape[2:]
            first_index.setdefault((height, width), index)
            counts[height, width] += 1
            advance(1, "")
    # A counter keeps the order of insertion among equal counts.
    size, count = counts.most_common(1)[0]
    image = _read_one(images, first_index[size], None)
    return TypicalImage(image, f"the most frequent, {count} of {len(images.names)} validation images")


def _read_one(images: Split, index: int, size: Size | None) -> Tensor:
    (batch,) = evaluation_batches(SubsetSplit(images, (index,), labels=True), size)
    return batch.image
