"""How good a segmentation is: one confusion matrix over the whole data set, and the scores that follow from it.

Intersections and unions are summed over all images before they are divided. A mean of scores per image or per batch
would be another number, and one that depends on the batch size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from segdistill.errors import DataError, ShapeError
from segdistill.types import IGNORE


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count the pixels by true class (row) and predicted class (column); ignored ones are left out.

    Args:
        prediction: integers in [0, C), of the label's shape.
        label: integers in [0, C) or IGNORE.
        num_classes: C.

    Returns:
        (C, C) int64, where the inputs are.

    Raises:
        ShapeError: if the two shapes differ.
        DataError: if the label holds another id.
    """
    if prediction.shape != label.shape:
        raise ShapeError(
            f"The prediction has shape {tuple(prediction.shape)} and the label {tuple(label.shape)}.",
            "Scores are taken at the label's size: resize the logits first.",
        )
    counted = label != IGNORE
    truth, guess = label[counted].long(), prediction[counted].long()
    strange = truth[(truth < 0) | (truth >= num_classes)]
    if strange.numel():
        raise DataError(
            f"{strange.numel()} pixels carry the ids {sorted(set(strange.tolist()))}, which name no class.",
            f"Labels are 0 to {num_classes - 1}, or {IGNORE} where a pixel counts nowhere.",
        )
    assert not ((guess < 0) | (guess >= num_classes)).any(), "a network cannot predict a class that it does not have"
    return torch.bincount(truth * num_classes + guess, minlength=num_classes**2).view(num_classes, num_classes)


def class_counts(confusion: Tensor) -> Tensor:
    """Return of each class the pixels hit, in the truth and predicted: (..., C, 3) from matrices (..., C, C)."""
    return torch.stack([confusion.diagonal(dim1=-2, dim2=-1), confusion.sum(-1), confusion.sum(-2)], dim=-1)


def class_iou(counts: Tensor) -> Tensor:
    """Return each class's intersection over union, (..., C) from counts (..., C, 3); NaN where it is nowhere."""
    hits, truth, predicted = counts.double().unbind(-1)
    return hits / (truth + predicted - hits)


def mean_iou(counts: Tensor) -> Tensor:
    """Return the mean of `class_iou` over the classes that have one, (...,); 0 where no class has."""
    return class_iou(counts).nanmean(-1).nan_to_num()


@dataclass(frozen=True, eq=False)
class Scores:
    """Counts over a data set, and the scores they give, all fractions 0..1. Counts of parts of it add up with `+`."""

    confusion: Tensor
    """(C, C) int64, rows are the truth."""
    ignored_pixels: int
    images: int
    each: tuple[Tensor, ...] = ()
    """`class_counts` of every image, in their order: enough to score any choice of images, and C / 3 times smaller than
    their matrices (20 MB for 5000 images of 171 classes)."""

    @classmethod
    def empty(cls, num_classes: int) -> "Scores":
        """Return the scores of no images, to add to."""
        return cls(torch.zeros(num_classes, num_classes, dtype=torch.int64), 0, 0)

    @classmethod
    def of(cls, prediction: Tensor, label: Tensor, num_classes: int) -> "Scores":
        """Return the scores of some images: predicted classes (B, H, W) and labels (B, H, W)."""
        pairs = zip(prediction, label, strict=True)
        matrices = torch.stack([confusion_matrix(guess, truth, num_classes) for guess, truth in pairs])
        return cls(matrices.sum(0), int((label == IGNORE).sum()), len(label), tuple(class_counts(matrices)))

    def __add__(self, other: "Scores") -> "Scores":
        """Return the scores of both sets of images together."""
        return Scores(
            self.confusion + other.confusion,
            self.ignored_pixels + other.ignored_pixels,
            self.images + other.images,
            self.each + other.each,
        )

    @property
    def iou(self) -> tuple[float | None, ...]:
        """Intersection over union of each class; None where it is neither in the truth nor predicted."""
        values = class_iou(class_counts(self.confusion)).tolist()
        return tuple(None if math.isnan(value) else value for value in values)

    @property
    def miou(self) -> float:
        """Mean of `iou` over the classes that have one; 0 where no class has."""
        return mean_iou(class_counts(self.confusion)).item()

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that count which are right; 0 where none counts."""
        return int(self.confusion.trace()) / max(int(self.confusion.sum()), 1)
