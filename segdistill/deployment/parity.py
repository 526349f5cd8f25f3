"""The proof that an exported graph computes what its network does."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.deployment.session import OnnxModel, as_logits
from segdistill.errors import CheckError, DataError, ModelError
from segdistill.evaluation.evaluate import predict_labels
from segdistill.evaluation.metrics import Scores, coverage
from segdistill.types import IGNORE, Batch

MAX_DIFFERENCE, MIN_AGREEMENT, MAX_MIOU_CHANGE = 1e-4, 0.999, 1e-3
"""Limits of a check. The difference is a fraction of the image's own largest logit. The pixels that may differ are
those of each image, rounded up. So no image, however large its logits or itself, sets the limit for the others."""
CHECKED_SHAPES = ((1, 67, 101), (3, 101, 67))
"""Batch, height and width beside those of the data: whatever the trace took for a constant shows here."""


@dataclass(frozen=True)
class ParityResult:
    """Differences between an exported graph and the network it was made from."""

    max_abs_diff: float | None
    """Largest difference of logits, over all images and `CHECKED_SHAPES`; not finite where a logit is not. None of a
    graph that returns none."""
    max_relative_diff: float | None
    """Largest difference of logits as a fraction of the largest logit, by magnitude, of the same image; or None."""
    label_agreement: float
    """Share of the pixels, at the labels' size, to which both give the same class."""
    min_label_agreement: float
    """Share of such pixels in the worst image."""
    unlike_images: int
    """Images in which more pixels get another class than `MIN_AGREEMENT` allows."""
    miou_torch: float
    miou_onnx: float
    images: int
    classes_scored: int | None = None
    """Classes that both means are over, the smaller number where they differ."""
    classes_declared: int | None = None

    def failures(self) -> list[str]:
        """Return a sentence for each limit that it breaks; none where it passed."""
        sentences = []
        if self.max_abs_diff is not None and not math.isfinite(self.max_abs_diff):
            sentences.append("some logits are not finite")
        # "not <=" instead of ">", so that NaN breaks a limit too.
        if self.max_relative_diff is not None and not self.max_relative_diff <= MAX_DIFFERENCE:
            sentences.append(
                f"the logits of an image differ by {self.max_relative_diff:.3g} of its largest, "
                f"more than {MAX_DIFFERENCE:g}"
            )
        if self.unlike_images != 0:
            sentences.append(
                f"only {100 * self.min_label_agreement:.3f} % of the pixels of an image get the same class, "
                f"less than {100 * MIN_AGREEMENT:g} % in {self.unlike_images} of {self.images} images"
            )
        if not abs(self.miou_torch - self.miou_onnx) <= MAX_MIOU_CHANGE:
            averaged = coverage(self.classes_scored, self.classes_declared)
            sentences.append(
                f"the mIoU{averaged} goes from {self.miou_torch:.4f} to {self.miou_onnx:.4f}, "
                f"by more than {MAX_MIOU_CHANGE:g}"
            )
        return sentences

    def to_json(self) -> dict[str, Any]:
        """Return the check in numbers; None for what is not finite, as JSON has no word for it."""
        values = asdict(self)
        if self.classes_scored == 0:  # no image has a label
            values["miou_torch"] = values["miou_onnx"] = None
        for name, value in values.items():
            if value is not None and not math.isfinite(value):
                values[name] = None
        return values


@torch.no_grad()
def check_parity(
    predict: Callable[[Tensor], Tensor],
    exported: OnnxModel,
    batches: Iterable[Batch],
    on_batch: Callable[[int], None] | None = None,
) -> ParityResult:
    """Compare an exported graph with its network on the images of a data set, at their size and at `CHECKED_SHAPES`.

    A graph of fixed sizes is compared at these alone, and one that returns labels alone by labels, both of them at the
    images' size.

    Args:
        predict: the network, in float32 without TF32: images (B, 3, h, w) to logits (B, C, h, w).
        exported: the graph.
        batches: images and labels, as `evaluation.evaluate` takes them.
        on_batch: called with the number of images done.

    Raises:
        DataError: if there are no images.
        CheckError: if the graph fails on images of some shape.
    """
    form = exported.form
    comparison = _Comparison(len(exported.info.classes))
    if not form.has_logits:
        predict = _labels_of(predict, exported.info)
    for batch in batches:
        logits = _run_both(predict, exported, batch.image)
        # Once is enough for the other shapes, whose logits have no labels.
        if comparison.is_empty and form.has_logits and not form.is_static:
            for image in _at_checked_shapes(batch.image):
                comparison.add_logits(_run_both(predict, exported, image))
        if form.has_logits:
            comparison.add_logits(logits)
        comparison.add_labels(logits, batch.label)
        if on_batch is not None:
            on_batch(len(batch.image))
    if comparison.is_empty:
        raise DataError("There are no images to compare the exported graph on.", "Choose another data set.")
    return comparison.result()


class _Logits(NamedTuple):
    """The logits of both for the same images, (B, C, h, w) on the CPU."""

    torch: Tensor
    onnx: Tensor


class _Comparison:
    """All that was compared so far, as one entry per image."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._scores_torch = Scores.empty(num_classes)
        self._scores_onnx = Scores.empty(num_classes)
        self._max_differences: list[Tensor] = []
        self._relative_differences: list[Tensor] = []
        self._unequal_pixels: list[Tensor] = []
        self._pixels: list[Tensor] = []

    @property
    def is_empty(self) -> bool:
        """Whether no image with a label was added."""
        return not self._pixels

    def add_logits(self, logits: _Logits) -> None:
        """Add each image's largest difference, and the same as a fraction of its own largest logit.

        Where a logit is not finite, both are NaN: no difference says then that the two are equal.
        """
        difference = (logits.torch.double() - logits.onnx.double()).abs().flatten(1).amax(1)  # (B,)
        largest = logits.torch.double().abs().flatten(1).amax(1)
        difference = torch.where((difference + largest).isfinite(), difference, torch.nan)
        # For equal images whose logits are all zero, 0 / 0 would be NaN.
        relative = torch.where(difference == 0, difference, difference / largest)
        self._max_differences.append(difference)
        self._relative_differences.append(relative)

    def add_labels(self, logits: _Logits, label: Tensor) -> None:
        """Add the class ids that both choose at the size of the labels (B, H, W)."""
        size = label.shape[-2:]
        labels_torch = predict_labels(lambda image: image, logits.torch, size)
        labels_onnx = predict_labels(lambda image: image, logits.onnx, size)
        self._scores_torch += Scores.of(labels_torch, label, self._num_classes)
        self._scores_onnx += Scores.of(labels_onnx, label, self._num_classes)
        self._unequal_pixels.append((labels_torch != labels_onnx).flatten(1).sum(1))
        self._pixels.append(torch.full((len(label),), size.numel()))

    def result(self) -> ParityResult:
        """Return the worst and the mean of all that was added."""
        unequal, pixels = torch.cat(self._unequal_pixels), torch.cat(self._pixels)
        # Rounded before the ceiling: 0.001 times a multiple of 1000 lies a little above the whole number it should be.
        allowed = ((1 - MIN_AGREEMENT) * pixels).round(decimals=6).ceil()
        return ParityResult(
            max_abs_diff=_largest(self._max_differences),
            max_relative_diff=_largest(self._relative_differences),
            label_agreement=int((pixels - unequal).sum()) / int(pixels.sum()),
            min_label_agreement=((pixels - unequal) / pixels).min().item(),
            unlike_images=int((unequal > allowed).sum()),
            miou_torch=self._scores_torch.miou,
            miou_onnx=self._scores_onnx.miou,
            images=self._scores_torch.images,
            classes_scored=min(self._scores_torch.classes_scored, self._scores_onnx.classes_scored),
            classes_declared=self._num_classes,
        )


def _largest(differences: list[Tensor]) -> float | None:
    """Return the largest entry, NaN where one is; None where there are none."""
    return torch.cat(differences).max().item() if differences else None


def _labels_of(predict: Callable[[Tensor], Tensor], info: ModelInfo) -> Callable[[Tensor], Tensor]:
    """Return a prediction that says no more than a graph of labels does."""
    num_classes = len(info.classes)

    def predict_as_labels(image: Tensor) -> Tensor:
        labels = predict(image).argmax(1)
        return as_logits(labels.masked_fill(labels == num_classes, IGNORE), num_classes, info.outputs)

    return predict_as_labels


def _at_checked_shapes(image: Tensor) -> Iterator[Tensor]:
    """Yield the first image in the batches and sizes of `CHECKED_SHAPES`."""
    for count, *size in CHECKED_SHAPES:
        resized = F.interpolate(image[:1], size=size, mode="bilinear", align_corners=False)
        # whole numbers, as all images have: a graph that takes bytes knows no others
        yield resized.round().repeat(count, 1, 1, 1)


def _run_both(predict: Callable[[Tensor], Tensor], exported: OnnxModel, image: Tensor) -> _Logits:
    """Return the logits of both; a graph that fails is one that does not compute the same."""
    try:
        return _Logits(predict(image).float().cpu(), exported(image))
    except ModelError as error:
        raise CheckError(error.what) from None
