"""Scores of a segmentation in a loop of one's own, by the confusion matrix that all our scores come from."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segdistill.errors import DataError, UsageError
from segdistill.evaluation.metrics import Scores, count_pixels
from segdistill.types import IGNORE, MAX_CLASSES

__all__ = ["ConfusionMatrix"]

Ids = Tensor | npt.NDArray[np.integer]


class ConfusionMatrix:
    """Counts of pixels by label and prediction over a whole data set, and the scores that follow.

    Intersections and unions are summed over all images before they are divided: a mean of scores per image or per batch
    would be another number.
    """

    def __init__(self, num_classes: int, *, ignore_index: int = IGNORE) -> None:
        """Begin without any pixel.

        Args:
            num_classes: C.
            ignore_index: label of pixels that do not count.

        Raises:
            UsageError: if there are more classes than label maps can tell, or none.
        """
        if not 1 <= num_classes <= MAX_CLASSES:
            raise UsageError(f"num_classes is {num_classes}.", f"Expected: 1 to {MAX_CLASSES}.")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.scores = Scores.empty(num_classes)
        """Everything that was counted so far."""

    def update(self, prediction: Ids, label: Ids) -> "ConfusionMatrix":
        """Count the pixels of some images.

        Args:
            prediction: class ids, (B, H, W) or (H, W).
            label: class ids or `ignore_index`, of the same shape.

        Returns:
            The matrix itself.

        Raises:
            ShapeError: if the two shapes differ.
            DataError: if there are other ids.
        """
        predicted, target = torch.as_tensor(prediction).long(), torch.as_tensor(label).long()
        _check_range(predicted, self.num_classes, "prediction")
        is_ignored = target == self.ignore_index
        # The counting has a number of its own for them, which otherwise is no label.
        _check_range(target.masked_fill(is_ignored, 0), self.num_classes, "label", f", or {self.ignore_index}")
        pixels = count_pixels(predicted, target.masked_fill(is_ignored, IGNORE), self.num_classes).cpu()
        images = len(target) if target.dim() == 3 else 1
        self.scores = Scores(self.scores.pixels + pixels, self.scores.images + images)
        return self

    def reset(self) -> None:
        """Forget all pixels."""
        self.scores = Scores.empty(self.num_classes)

    @property
    def matrix(self) -> npt.NDArray[np.int64]:
        """Number of pixels by label (row) and prediction (column), (C, C)."""
        return np.asarray(self.scores.confusion.numpy(), np.int64)

    @property
    def iou(self) -> tuple[float | None, ...]:
        """Intersection over union of each class, 0..1; None where it is neither in the labels nor predicted."""
        return self.scores.iou

    @property
    def miou(self) -> float:
        """Mean of `iou` over the classes that have one, 0..1; 0 where no class has."""
        return self.scores.miou

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labeled pixels that are predicted right, 0..1."""
        return self.scores.pixel_accuracy

    def __repr__(self) -> str:
        """Return the number of images and the scores in percent, with how many classes the mean is over."""
        scores = self.scores
        return (
            f"ConfusionMatrix(images={scores.images}, miou={100 * scores.miou:.2f} %{scores.coverage}, "
            f"pixel_accuracy={100 * scores.pixel_accuracy:.2f} %)"
        )


def _check_range(ids: Tensor, num_classes: int, what: str, more: str = "") -> None:
    """Refuse ids that name no class.

    Raises:
        DataError: naming them.
    """
    unknown = ids[(ids < 0) | (ids >= num_classes)]
    if unknown.numel():
        found = sorted(set(unknown.tolist()))[:10]
        raise DataError(
            f"The {what} has the ids {found}, which name no class.", f"Expected: 0 to {num_classes - 1}{more}."
        )
