"""Scores of a segmentation: one confusion matrix over the whole data set, and what follows from it.

Intersections and unions are summed over all images before they are divided. A mean of scores per image or per batch
would be another number, and one that depends on the batch size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from segdistill.errors import DataError, ShapeError
from segdistill.types import IGNORE
from segdistill.wording import counted


def count_pixels(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count the pixels by their label (row) and their prediction (column).

    Args:
        prediction: integers in [0, C], of the label's shape; C is the answer of a network that knows of void, or of
            classes that the data does not have: none of them.
        label: integers in [0, C) or IGNORE.
        num_classes: C.

    Returns:
        (C + 1, C + 1) int64, on the inputs' device. The last row is of ignored pixels, the last column of those
        predicted to be none of the classes.

    Raises:
        ShapeError: if the two shapes differ.
        DataError: if the label holds another id.
    """
    if prediction.shape != label.shape:
        raise ShapeError(
            f"The prediction has shape {tuple(prediction.shape)} and the label {tuple(label.shape)}.",
            "Scores are taken at the label's size: resize the logits first.",
        )
    unknown_ids = label[((label < 0) | (label >= num_classes)) & (label != IGNORE)]
    if unknown_ids.numel():
        raise DataError(
            f"The label has {counted(unknown_ids.numel(), 'pixel')} with the ids {sorted(set(unknown_ids.tolist()))}, "
            "which name no class.",
            f"Labels are 0 to {num_classes - 1}, or {IGNORE} where a pixel counts nowhere.",
        )
    assert not ((prediction < 0) | (prediction > num_classes)).any(), "a network cannot predict what it does not have"
    side = num_classes + 1
    # Row and column as one number, so that one pass counts them all.
    index = label.long().masked_fill(label == IGNORE, num_classes) * side + prediction.long()
    return torch.bincount(index.flatten(), minlength=side**2).view(side, side)


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Return the part of `count_pixels` that classes take: (C, C) int64, rows are the ground truth."""
    return count_pixels(prediction, label, num_classes)[:-1, :-1]


def class_counts(pixels: Tensor) -> Tensor:
    """Return each class's pixels in intersection, target and prediction, (..., C, 3).

    Args:
        pixels: (..., C + 1, C + 1), as `count_pixels` has them.
    """
    labeled = pixels[..., :-1, :]
    intersection = labeled.diagonal(dim1=-2, dim2=-1)
    target = labeled.sum(-1)  # those predicted to be none of the classes included: they are misses
    prediction = labeled[..., :-1].sum(-2)
    return torch.stack([intersection, target, prediction], dim=-1)


def class_iou(counts: Tensor) -> Tensor:
    """Return each class's intersection over union, (..., C) from counts (..., C, 3); NaN where it is nowhere."""
    intersection, target, prediction = counts.double().unbind(-1)
    # 0 / 0, NaN, where a class is neither in the labels nor predicted: that is no score of 0
    return intersection / (target + prediction - intersection)


def class_precision(counts: Tensor) -> Tensor:
    """Return the share of each class's predictions that is right, (..., C) from counts (..., C, 3); NaN without any."""
    intersection, _, prediction = counts.double().unbind(-1)
    return intersection / prediction


def class_recall(counts: Tensor) -> Tensor:
    """Return the share of each class's pixels that is found, (..., C) from counts (..., C, 3); NaN without any."""
    intersection, target, _ = counts.double().unbind(-1)
    return intersection / target


def class_dice(counts: Tensor) -> Tensor:
    """Return each class's Dice, which is its F1, (..., C) from counts (..., C, 3); NaN where it is nowhere."""
    intersection, target, prediction = counts.double().unbind(-1)
    return 2 * intersection / (target + prediction)


def mean_iou(counts: Tensor) -> Tensor:
    """Return the mean of `class_iou` over the classes that have one, (...,); 0 where no class has."""
    return class_iou(counts).nanmean(-1).nan_to_num()


def num_scored(counts: Tensor) -> int:
    """Return the number of classes that `mean_iou` takes the mean over, of counts (C, 3)."""
    return int((~class_iou(counts).isnan()).sum())


def coverage(scored: int | None, declared: int | None) -> str:
    """Return what stands behind an mIoU that is a mean over fewer classes than declared; nothing where it is over all.

    Every output that prints an mIoU puts this after it: without it, 100 % over one of two classes reads as success.
    Results of earlier versions name neither number.
    """
    return "" if scored == declared else f" (over {scored} of {declared} classes)"


def _or_none(values: Tensor) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(value) else value for value in values.tolist())


@dataclass(frozen=True, eq=False)
class Scores:
    """Counts over a data set, and the scores they give, all fractions 0..1. Counts of parts of it add up with `+`."""

    pixels: Tensor
    """(C + 1, C + 1) int64, as `count_pixels` has them."""
    images: int
    """Number of images."""
    per_image: tuple[Tensor, ...] = ()
    """`class_counts` of every image, in their order: enough to score any choice of images, and C / 3 times smaller than
    their matrices (20 MB for 5000 images of 171 classes)."""

    @classmethod
    def empty(cls, num_classes: int) -> "Scores":
        """Return the scores of no images, to add to."""
        return cls(torch.zeros(num_classes + 1, num_classes + 1, dtype=torch.int64), 0)

    @classmethod
    def of(cls, prediction: Tensor, label: Tensor, num_classes: int) -> "Scores":
        """Return the scores of some images: predictions (B, H, W) and labels (B, H, W), as `count_pixels` takes them.

        A pixel of a class that is predicted to be none of them is a miss.
        """
        pairs = zip(prediction, label, strict=True)
        pixels = torch.stack([count_pixels(predicted, target, num_classes) for predicted, target in pairs])
        return cls(pixels.sum(0), len(label), tuple(class_counts(pixels)))

    def __add__(self, other: "Scores") -> "Scores":
        """Return the scores of both sets of images together."""
        return Scores(self.pixels + other.pixels, self.images + other.images, self.per_image + other.per_image)

    @property
    def confusion(self) -> Tensor:
        """Pixels of the classes by their label and their prediction: (C, C) int64, rows are the ground truth."""
        return self.pixels[:-1, :-1]

    @property
    def ignored_pixels(self) -> int:
        """Number of pixels that count nowhere."""
        return int(self.pixels[-1].sum())

    @property
    def iou(self) -> tuple[float | None, ...]:
        """Intersection over union of each class; None where it is neither in the ground truth nor predicted."""
        return _or_none(class_iou(class_counts(self.pixels)))

    @property
    def precision(self) -> tuple[float | None, ...]:
        """Share of each class's predictions that are right; None where it is not predicted."""
        return _or_none(class_precision(class_counts(self.pixels)))

    @property
    def recall(self) -> tuple[float | None, ...]:
        """Share of each class's pixels that are found; None where it is not in the ground truth."""
        return _or_none(class_recall(class_counts(self.pixels)))

    @property
    def dice(self) -> tuple[float | None, ...]:
        """Dice of each class, which is its F1; None where it is neither in the ground truth nor predicted."""
        return _or_none(class_dice(class_counts(self.pixels)))

    @property
    def predicted_none(self) -> tuple[int, ...]:
        """Pixels of each class by the ground truth that are predicted to be none of the classes."""
        return tuple(self.pixels[:-1, -1].tolist())

    @property
    def miou(self) -> float:
        """Mean of `iou` over the classes that have one; 0 where no class has."""
        return mean_iou(class_counts(self.pixels)).item()

    @property
    def miou_counting_void(self) -> float:
        """Mean IoU that counts ignored pixels as false positives of the class they are predicted to be.

        ESPNet's authors count so.
        """
        return mean_iou(self._counts_with_void()).item()

    @property
    def classes_declared(self) -> int:
        """Number of classes of the data set."""
        return len(self.confusion)

    @property
    def classes_scored(self) -> int:
        """Number of classes that `miou` is a mean over: those in the ground truth or predicted."""
        return num_scored(class_counts(self.pixels))

    @property
    def coverage(self) -> str:
        """Text to print after `miou`; see the function `coverage`."""
        return coverage(self.classes_scored, self.classes_declared)

    @property
    def coverage_counting_void(self) -> str:
        """Text to print after `miou_counting_void`."""
        return coverage(num_scored(self._counts_with_void()), self.classes_declared)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labeled pixels that are predicted right; 0 where there are none."""
        return int(self.confusion.trace()) / max(int(self.pixels[:-1].sum()), 1)

    def _counts_with_void(self) -> Tensor:
        counts = class_counts(self.pixels)
        counts[:, 2] += self.pixels[-1, :-1]  # ignored pixels by their prediction
        return counts
