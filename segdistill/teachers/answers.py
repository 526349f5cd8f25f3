"""The answers of a teacher on images that nobody has labeled: whether there is anything to learn, and label maps."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.data import Split, SubsetSplit, evaluation_batches
from segdistill.data.splits import compressed
from segdistill.errors import DataError, ModelError, UsageError
from segdistill.evaluation.evaluate import pixels_at_once, predict_labels
from segdistill.evaluation.predictor import predictor
from segdistill.runtime.precision import Precision
from segdistill.runtime.reporter import Rows
from segdistill.teachers.selective import Following
from segdistill.teachers.teacher import Teacher
from segdistill.types import IGNORE, Batch
from segdistill.wording import counted

MAX_IMAGES = 8
"""Training images on which a teacher is asked before the training."""
MAX_SECONDS = 15.0
"""Seconds after which no further one is asked."""
MAX_LISTED = 6
"""Classes in the row of what was found, the most frequent ones."""
WIDE_SHARE = 0.5
"""Share of the pixels that the threshold in an advice leaves."""


@dataclass(frozen=True)
class AnswersCheck:
    """What a teacher answers on a few training images."""

    images: int
    shares: tuple[tuple[str, float], ...]
    """Names of the classes and their shares of all pixels, the most frequent first; only those that were answered."""
    followed: float
    """Share of the pixels at which it is followed."""
    none: float
    """Share of the pixels at which its outputs mean none of the classes."""
    threshold: float

    @property
    def problems(self) -> tuple[str, ...]:
        """Reasons not to follow it, in sentences."""
        if len(self.shares) != 1:
            return ()
        ((name, _),) = self.shares
        return (f"It answers {name!r} wherever it is followed in {counted(self.images, 'image')}, and nothing else.",)

    def rows(self) -> Rows:
        """Return what to show, names and values."""
        classes = ", ".join(f"{name} {100 * share:.0f} %" for name, share in self.shares[:MAX_LISTED])
        if len(self.shares) > MAX_LISTED:
            classes += f" and {len(self.shares) - MAX_LISTED} more"
        followed = f"{100 * self.followed:.1f} % of the pixels"
        if self.threshold > 0:
            followed += f", of probability {self.threshold:g} or more"
        if self.none > 0:
            followed += f"; {100 * self.none:.1f} % are of no class"
        return [(f"{counted(self.images, 'image')}", classes), ("followed", followed)]


def check_answers(
    teacher: Teacher, images: Split, classes: Sequence[str], following: Following, precision: Precision
) -> AnswersCheck:
    """Ask a teacher for a few training images, evenly spread, whether there is a pixel to learn from.

    Args:
        teacher: in the classes of the data.
        images: what is trained on.
        classes: names of the data's classes.
        following: what is taken from the teacher.
        precision: device and autocast type.

    Raises:
        ModelError: if what it answers are no numbers.
        DataError: if it finds none of the classes.
        UsageError: if it is nowhere as sure as is asked for.
    """
    spread = torch.linspace(0, len(images.names) - 1, min(MAX_IMAGES, len(images.names))).round().int().unique()
    sample = SubsetSplit(images, tuple(spread.tolist()), labels=False)
    predict = predictor(teacher.network, precision)
    pixels: Counter[int] = Counter()
    sure: list[Tensor] = []
    total, asked, start = 0, 0, time.perf_counter()
    for batch in evaluation_batches(sample, teacher.info.size):
        height, width = batch.image.shape[-2:]
        ids, probability = _answers(predict, batch.image, (height, width), len(classes))
        is_class = ids < len(classes)
        total += ids.numel()
        asked += 1
        sure.append(probability[is_class])
        followed = ids[is_class & (probability >= following.threshold)]
        pixels.update(dict(enumerate(torch.bincount(followed.flatten()).tolist())))
        if time.perf_counter() - start > MAX_SECONDS:
            break
    probabilities = torch.cat(sure)
    if not len(probabilities):
        raise DataError(
            f"The teacher finds none of the {counted(len(classes), 'class', 'classes')} in {counted(asked, 'image')}: "
            "each pixel is of an output that means none of them.",
            "Map more of its classes in --class-map, or give images of what it knows.",
        )
    count = sum(pixels.values())
    if count == 0:
        raise _too_high(following.threshold, probabilities, asked)
    shares = tuple((classes[index], number / total) for index, number in pixels.most_common() if number)
    return AnswersCheck(
        images=asked,
        shares=shares,
        followed=count / total,
        none=1 - len(probabilities) / total,
        threshold=following.threshold,
    )


def label_images(
    teacher: Teacher,
    images: Split,
    num_classes: int,
    threshold: float,
    precision: Precision,
    *,
    workers: int,
    rank: int,
    world: int,
    on_image: Callable[[int], None],
) -> Iterator[bytes]:
    """Yield a teacher's label map of each image, at the image's own size, compressed.

    Pixels that mean none of the classes, or of which the teacher is not sure enough, are IGNORE.

    Args:
        teacher: in the classes of the data.
        images: as they are stored.
        num_classes: C.
        threshold: probability of the most likely class below which a pixel is left out.
        precision: device and autocast type.
        workers: loader processes.
        rank: this process, of `world`, each of which labels every `world`-th image.
        world: number of processes.
        on_image: called with the number of images done.
    """
    predict = predictor(teacher.network, precision)
    batches: Iterator[Batch] = evaluation_batches(
        images,
        teacher.info.size,
        max_pixels=pixels_at_once(teacher.num_outputs),
        workers=workers,
        rank=rank,
        world=world,
    )
    for batch in batches:
        for image, label in zip(batch.image, batch.label, strict=True):
            ids, probability = _answers(predict, image[None], (label.shape[0], label.shape[1]), num_classes)
            left_out = (ids >= num_classes) | (probability < threshold)
            yield compressed(ids.masked_fill(left_out, IGNORE)[0].numpy().astype(np.uint8))
            on_image(1)


@torch.no_grad()
def _answers(
    predict: Callable[[Tensor], Tensor], image: Tensor, size: tuple[int, int], num_classes: int
) -> tuple[Tensor, Tensor]:
    """Return class ids (1, H, W) of an image (1, 3, h, w) at a size, C where none is meant, and their probabilities.

    Raises:
        ModelError: if these are no numbers.
    """
    logits = predict(image)
    ids = predict_labels(lambda same: same, logits, size)
    probability = logits.float().softmax(1)[:, :num_classes].amax(1, keepdim=True)
    if not probability.isfinite().all():
        raise ModelError(
            f"The teacher's probabilities of an image of {image.shape[2]}x{image.shape[3]} are no numbers (NaN).",
            "Look at its weights, and at how its images are normalized: --set teacher.input.mean=[...]",
        )
    # one map of probabilities is enlarged, not those of all classes: an image may have any size
    enlarged = F.interpolate(probability, size=size, mode="bilinear", align_corners=False)
    return ids, enlarged.squeeze(1).cpu()


def _too_high(threshold: float, probabilities: Tensor, images: int) -> UsageError:
    """Return the error for a threshold that leaves no pixel, with one that leaves half of them."""
    highest = probabilities.max().item()
    half = probabilities.flatten().sort().values[int(len(probabilities) * (1 - WIDE_SHARE))].item()
    lower = max(0.0, int(100 * half) / 100)  # rounded down, so that it leaves them
    return UsageError(
        f"teacher.threshold = {threshold:g} leaves no pixel of {counted(images, 'image')}: the teacher's highest "
        f"probability there is {highest:.3f}.",
        f"--set teacher.threshold={lower:g} leaves about half of the pixels.",
    )
